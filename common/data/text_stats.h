#pragma once

#include "absl/strings/string_view.h"

// What models that only count would reach on a text, to compare a trained one with. In nats per
// byte, from the text's own counts.
namespace sdp {

// Entropy of a byte. 0 for an empty text.
double UnigramEntropy(absl::string_view text);

// Entropy of a byte given the one before it, over the text's size - 1 pairs. 0 for a text of fewer
// than two bytes.
double BigramEntropy(absl::string_view text);

}  // namespace sdp

#pragma once

#include "absl/strings/string_view.h"

namespace sdp {

// True if `a` comes before `b` when runs of digits compare as numbers: worker-2 before worker-10.
// Equal numbers with different leading zeros fall back to plain order, so this is a strict total
// order.
bool NaturalLess(absl::string_view a, absl::string_view b);

}  // namespace sdp

#pragma once

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "worker/inference/sampler.h"

namespace sdp {

// `sdp generate DIR|RUN --prompt S | --prompt-ids I,J,...`: goes on from a prompt.
struct GenerateRequest {
  std::string model = {};                // an exported folder, or a run
  std::string prompt = {};               // text, for models of bytes
  std::vector<int32_t> prompt_ids = {};  // instead of it, for any model
  int64_t tokens = 200;                  // at most: a sequence ends where the positions do
  SamplerOptions sampling = {};
  int threads = 0;  // of torch; 0: as it chooses
};

// Writes prompt and continuation to `out`, each token as soon as it is there: bytes as they are if
// the prompt is text, else ids with blanks between, and a line break at the end. Why it ended
// before `tokens` goes to `messages`. The same request gives the same tokens on one CPU model at
// equal thread count.
// InvalidArgument - a text for a model with a tokenizer, no prompt, one longer than the model has
// positions, an id out of the vocabulary. OutOfRange - logits that are not finite. Unavailable -
// `out` cannot be written. Others: the model's.
absl::Status Generate(const GenerateRequest& request, std::ostream& out, std::ostream& messages);

}  // namespace sdp

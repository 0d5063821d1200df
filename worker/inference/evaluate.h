#pragma once

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace sdp {

// `sdp eval DIR|RUN --data FILE...`: the loss of a full model on text, token ids or images.
struct EvaluateRequest {
  std::string model = {};              // an exported folder, or a run
  std::vector<std::string> data = {};  // files, joined in this order; a folder of images
  int64_t seq_len = 0;                 // tokens of a sample; 0: as many as the model has positions
  int64_t samples = 0;                 // the first k; 0: all
  int threads = 0;                     // of torch; 0: as it chooses
  enum class Format { kText, kJson };
  Format format = Format::kText;
  std::string logits = {};  // a safetensors file to write; "": none
};

// Of a language model (of images: evaluate_images.h) writes one line to `out`: the mean loss over
// all targets in nats, its exponential, for bytes the bits per byte, and what it is over. JSON:
// loss, perplexity, bits_per_byte, targets, samples, seq_len. The logits file has "tokens"
// [samples, seq_len] I64 and "logits" [samples, seq_len, vocab] F32. NotFound, InvalidArgument -
// the model, the data, a sample longer than positions.
absl::Status Evaluate(const EvaluateRequest& request, std::ostream& out);

}  // namespace sdp

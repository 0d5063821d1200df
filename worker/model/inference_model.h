#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/base/wire_buffer.h"
#include "common/export/stored_model.h"

// A full model with all of its weights in memory, for one sequence at a time. No torch header here.
namespace sdp {

// A unit's fragments in order, as LocalModel's Exchange gives them out.
absl::StatusOr<std::vector<WireBuffer>> ReadBlock(const StoredModel& model, UnitId unit);

// Threads: confined to one.   Errors: InvalidArgument - a token id that is not below the
// vocabulary, more tokens than positions, or none; LibTorch's as Internal or ResourceExhausted (out
// of memory).
class InferenceModel {
 public:
  virtual ~InferenceModel() = default;

  // The logits of all tokens of a sequence by itself, [tokens, vocab] f32, computed as evaluation
  // does. Valid until the next call.
  virtual absl::StatusOr<absl::Span<const float>> Logits(absl::Span<const int32_t> tokens) = 0;

  // The growing sequence gets these tokens; the logits after the last of them, [vocab] f32. What
  // was computed for its earlier tokens is kept, so a step costs the new ones alone. Valid until
  // the next call. After an error: Clear.
  virtual absl::StatusOr<absl::Span<const float>> Append(absl::Span<const int32_t> tokens) = 0;
  // An empty sequence again.
  virtual void Clear() = 0;
  virtual int64_t length() const = 0;  // tokens of the growing sequence
};

// Reads all of `stored`, which outlives the model, for sequences of at most `positions` tokens.
// `threads` of torch; 0: as it chooses. InvalidArgument - no language model; the stored model's
// errors too.
absl::StatusOr<std::unique_ptr<InferenceModel>> LoadInferenceModel(const StoredModel& stored,
                                                                   int64_t positions, int threads);

}  // namespace sdp

#pragma once

#include "ATen/ATen.h"
#include "absl/types/span.h"
#include "worker/model/stage.h"

namespace sdp {

// Activation checkpointing: the stage's Train, of which the graph keeps h and refers to the
// weights, and nothing else. Its backward pass does Train again, now with a graph, and goes through
// that: the same operations on the same numbers, so the same gradients bit by bit, handed out by
// the same hooks. The weights' values must be there until then. Lifetime: the stage outlives the
// graph.
at::Tensor RecomputedTrain(const Stage& stage, const at::Tensor& h,
                           absl::Span<const at::Tensor> weights,
                           absl::Span<const TrainedPart> parts, double factor);

}  // namespace sdp

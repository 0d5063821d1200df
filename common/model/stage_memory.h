#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "common/base/allocated.h"

namespace sdp {

// Bytes per element of what a worker holds. Row statistics, logits and losses are f32 whatever this
// says.
struct ElementSizes {
  int64_t weight = 4;    // as a tensor
  int64_t gradient = 4;  // of a weight, as a tensor
  int64_t activation = 4;
  int64_t fragment = 4;  // a value that came in, or a gradient on its way out
};

// What computes: the kernels of attention, and their scratch, differ.
struct Computer {
  MemoryPlace place = MemoryPlace::kHost;
  int threads = 1;  // of the host
  // Without instructions for it a CPU copies blocks of operands in bf16 to f32.
  bool multiplies_bf16 = false;
};

// What cuBLAS works in on a GPU, for the worker's whole life: worker/model/device.cc says so.
inline constexpr int64_t kCublasWorkspaceBytes = int64_t{32} << 20;

// Elements of each of the catalog's tensors (Catalog::HeldElements): those that a worker computes
// with, and of these those that have gradients, which are fewer where it reads what it lacks.
struct HeldTensors {
  std::vector<int64_t> computed;
  std::vector<int64_t> trained;
};

// What one stage allocates for a given number of samples, in bytes. It says what the stage's code
// does (worker/model), allocation by allocation; common/plan/memory.h adds up the walk over the
// stages. A test compares both with the allocator.
struct StageMemory {
  // Elements of the weights that no earlier stage reads: their gradients are final, and handed out,
  // in this stage's backward pass.
  int64_t parameters = 0;
  int64_t trained = 0;  // of these, that have gradients
  // Elements of the weights that go after this stage's forward pass in the last micro-batch, since
  // nothing reads them any more, and of those that its backward pass reads and that go after it.
  int64_t spent_forward = 0;
  int64_t spent_backward = 0;
  // Elements of the weight, beside a norm's, of which the values go first when the gradients of the
  // stage are handed out.
  int64_t spent_first = 0;

  int64_t output = 0;  // its boundary activation, and the gradient of it
  // Kept from the forward pass for the backward pass, beside input and output.
  int64_t stored = 0;
  bool stores_input = true;
  bool stores_output = false;
  int64_t input_copy = 0;  // of the first stage's, in its own order: takes the batch's place
  // The most that is there at once during the forward pass (training, evaluation) and the backward
  // pass, beyond what was there before: output, stored and the weights' gradients included. Of the
  // loss, `backward` is what is left to do when its weights' gradients are out, with that of h.
  int64_t forward = 0;
  int64_t evaluate = 0;
  int64_t backward = 0;
  // Of the loss: weights' gradients that its forward pass makes, within `stored`. Those of a tied
  // weight wait for the stage that reads it first.
  int64_t early_gradients = 0;
};

// One entry per stage of the catalog. What a stage is without any of its masked units matters only
// where it stands alone (StageSpec).
using StageMemories =
    std::function<std::vector<StageMemory>(int64_t samples, const HeldTensors& held)>;

}  // namespace sdp

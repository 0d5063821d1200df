#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "ATen/ATen.h"

// The row kernels on tensors, spread over torch's threads. Rows are cut into blocks of a fixed
// size, so results do not depend on the number of threads. None of these is differentiable: the
// autograd functions of the branches call them. Tensors are contiguous, f32 or bf16 (one type for
// all that a call does not say is f32), on one device: the kernels are those of kernels.h on a CPU
// and their twins of kernels_cuda.h on a GPU. bf16 is computed in f32 and rounded on the way out.
// [T, d] stands for any shape with rows of d.   Errors: c10::Error on a wrong shape.
namespace sdp {

struct Normed {
  at::Tensor y;     // [T, d]
  at::Tensor rstd;  // [T] f32
};
Normed RmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps);

struct RmsNormGradients {
  at::Tensor dx;       // [T, d]
  at::Tensor dweight;  // [d] f32: a sum that the caller may go on with
};
// `residual` [T, d] is added to dx; undefined: nothing is.
RmsNormGradients RmsNormGradient(const at::Tensor& dy, const at::Tensor& x,
                                 const at::Tensor& weight, const at::Tensor& rstd,
                                 const at::Tensor& residual);

// Angles of rotary positions for samples of up to `length` tokens. Immutable; shared by the stages.
class Rotary {
 public:
  Rotary(int64_t length, int64_t head_dim, double theta, at::Device device = at::kCPU);
  int64_t length() const { return cosine_.size(0); }
  int64_t head_dim() const { return 2 * cosine_.size(1); }

  // Rotate the first `heads` heads of x [B, L, heads of head_dim ...] in place, forth and back.
  void Apply(at::Tensor& x, int64_t heads) const { Turn(x, heads, 1, 0); }
  void ApplyInverse(at::Tensor& x, int64_t heads) const { Turn(x, heads, -1, 0); }
  // Of one sample, x [1, L, ...], whose first token is at position `first`.
  void ApplyFrom(at::Tensor& x, int64_t heads, int64_t first) const { Turn(x, heads, 1, first); }

 private:
  void Turn(at::Tensor& x, int64_t heads, float sign, int64_t first) const;

  at::Tensor cosine_, sine_;  // [length, head_dim / 2] f32
};

// silu(gate) * up: [T, 2 f] -> [T, f].
at::Tensor SwiGlu(const at::Tensor& gate_up);
// Turns dproduct [T, f] into the product and returns the gradient of gate_up [T, 2 f].
at::Tensor SwiGluGradient(const at::Tensor& gate_up, at::Tensor& dproduct_to_product);

// -log softmax(logits)[target] of each row, [T] f32. logits [T, V] f32 become the losses'
// gradients. target [T] i64; outside of [0, V) it is a c10::Error on a CPU and a loss of NaN on a
// GPU.
at::Tensor SoftmaxLoss(at::Tensor& logits, const at::Tensor& target);
// The sum of [T] f32 in f64, added in order. Waits for a GPU.
double SumInOrder(const at::Tensor& values);

// Gradient of looking up `tokens` [any] i64 in a table of `vocab` rows: [vocab, d], from dy [as
// many rows as tokens, d]. Tokens are in [0, vocab).
at::Tensor EmbeddingGradient(const at::Tensor& dy, const at::Tensor& tokens, int64_t vocab);

}  // namespace sdp

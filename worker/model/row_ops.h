#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "ATen/ATen.h"

// The row kernels on tensors, spread over torch's threads. Rows are cut into blocks of a fixed
// size, so results do not depend on the number of threads. None of these is differentiable: the
// autograd functions of the branches call them. Tensors are contiguous f32 on the CPU; [T, d]
// stands for any shape with rows of d.   Errors: c10::Error on a wrong shape.
namespace sdp {

struct Normed {
  at::Tensor y;     // [T, d]
  at::Tensor rstd;  // [T]
};
Normed RmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps);

struct RmsNormGradients {
  at::Tensor dx;       // [T, d]
  at::Tensor dweight;  // [d]
};
// `residual` [T, d] is added to dx; undefined: nothing is.
RmsNormGradients RmsNormGradient(const at::Tensor& dy, const at::Tensor& x,
                                 const at::Tensor& weight, const at::Tensor& rstd,
                                 const at::Tensor& residual);

// Angles of rotary positions for samples of up to `length` tokens. Immutable; shared by the stages.
class Rotary {
 public:
  Rotary(int64_t length, int64_t head_dim, double theta);
  int64_t length() const { return cosine_.size(0); }
  int64_t head_dim() const { return 2 * cosine_.size(1); }

  // Rotate the first `heads` heads of x [B, L, heads of head_dim ...] in place, forth and back.
  void Apply(at::Tensor& x, int64_t heads) const { Turn(x, heads, 1, 0); }
  void ApplyInverse(at::Tensor& x, int64_t heads) const { Turn(x, heads, -1, 0); }
  // Of one sample, x [1, L, ...], whose first token is at position `first`.
  void ApplyFrom(at::Tensor& x, int64_t heads, int64_t first) const { Turn(x, heads, 1, first); }

 private:
  void Turn(at::Tensor& x, int64_t heads, float sign, int64_t first) const;

  at::Tensor cosine_, sine_;  // [length, head_dim / 2]
};

// silu(gate) * up: [T, 2 f] -> [T, f].
at::Tensor SwiGlu(const at::Tensor& gate_up);
// Turns dproduct [T, f] into the product and returns the gradient of gate_up [T, 2 f].
at::Tensor SwiGluGradient(const at::Tensor& gate_up, at::Tensor& dproduct_to_product);

// Sum of -log softmax(logits)[target], added in row order in f64. logits [T, V] become the sum's
// gradient. target [T] i64.
double SoftmaxLoss(at::Tensor& logits, const at::Tensor& target);

}  // namespace sdp

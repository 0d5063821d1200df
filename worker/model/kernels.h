#pragma once

#include <cstdint>

// Row kernels of the CPU worker, on plain pointers so that neither torch nor a device's types
// enter. All matrices are f32, row-major and contiguous; arguments do not overlap unless said.
// Element order and arithmetic are fixed, so the same input gives the same bits on one CPU model.
// Threads: none inside; callers split the rows (row_ops.h).
namespace sdp::kernels {

// y = x * rstd * weight with rstd = 1 / sqrt(mean(x^2) + eps).   x, y [rows, width], weight
// [width], rstd [rows].
void RmsNorm(const float* x, const float* weight, float eps, int64_t rows, int64_t width, float* y,
             float* rstd);

// Gradients of RmsNorm, given dy. dx = residual + (gradient of x), where `residual` [rows, width]
// is the gradient that reaches x around the branch, or null. Adds the rows' part to dweight
// [width].
void RmsNormGradient(const float* dy, const float* x, const float* weight, const float* rstd,
                     const float* residual, int64_t rows, int64_t width, float* dx, float* dweight);

// Rotates the first `heads` heads of each row in place, Hugging Face's rotate_half convention:
// element i of a head is paired with i + head_dim / 2 and turned by the angle of its position; sign
// -1 turns back, which is the gradient. x [rows, stride], first row at position `position`,
// positions run modulo `length`; cosine, sine [length, head_dim / 2].
struct RotaryShape {
  int64_t stride = 0;
  int64_t heads = 0;
  int64_t head_dim = 0;
  int64_t length = 0;
};
void Rotate(float* x, const RotaryShape& shape, const float* cosine, const float* sine, float sign,
            int64_t rows, int64_t position);

// product = silu(gate) * up.   gate_up [rows, 2 width]: gate, then up; product [rows, width].
void SwiGlu(const float* gate_up, int64_t rows, int64_t width, float* product);

// Gradient of SwiGlu: gate_up -> dgate_up [rows, 2 width]. Also writes the product again, which the
// forward pass did not keep: in place of dproduct [rows, width], which is read first.
void SwiGluGradient(const float* gate_up, int64_t rows, int64_t width, float* dproduct_to_product,
                    float* dgate_up);

// loss[i] = -log softmax(logits[i])[target[i]], in nats. logits [rows, classes] become the losses'
// gradients, softmax(logits[i]) - onehot(target[i]).   target [rows], each in [0, classes); loss
// [rows].
void SoftmaxLoss(float* logits, const int64_t* target, int64_t rows, int64_t classes, float* loss);

}  // namespace sdp::kernels

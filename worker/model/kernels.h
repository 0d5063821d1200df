#pragma once

#include <cstdint>

// Row kernels of the CPU worker, on plain pointers so that neither torch nor a device's types
// enter. All matrices are row-major and contiguous; arguments do not overlap unless said. Each
// exists for f32 and for bf16, which is read and written as such and computed in f32. Element order
// and arithmetic are fixed, so the same input gives the same bits on one CPU model. kernels_cuda.h
// has their twins for a GPU. Threads: none inside; callers split the rows (row_ops.h).
namespace sdp::kernels {

// A bf16 number: the upper half of an f32.
struct Bf16 {
  uint16_t bits;
};

// Sums over rows are kept apart for each so many of them.
inline constexpr int64_t kRowsPerPart = 64;

// y = x * rstd * weight with rstd = 1 / sqrt(mean(x^2) + eps).   x, y [rows, width], weight
// [width], rstd [rows].
void RmsNorm(const float* x, const float* weight, float eps, int64_t rows, int64_t width, float* y,
             float* rstd);
void RmsNorm(const Bf16* x, const Bf16* weight, float eps, int64_t rows, int64_t width, Bf16* y,
             float* rstd);

// Gradients of RmsNorm, given dy. dx = residual + (gradient of x), where `residual` [rows, width]
// is the gradient that reaches x around the branch, or null. Sets dweight [ceil(rows /
// kRowsPerPart), width] f32: the weight's gradient, in parts to be added up.
void RmsNormGradient(const float* dy, const float* x, const float* weight, const float* rstd,
                     const float* residual, int64_t rows, int64_t width, float* dx, float* dweight);
void RmsNormGradient(const Bf16* dy, const Bf16* x, const Bf16* weight, const float* rstd,
                     const Bf16* residual, int64_t rows, int64_t width, Bf16* dx, float* dweight);

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
void Rotate(Bf16* x, const RotaryShape& shape, const float* cosine, const float* sine, float sign,
            int64_t rows, int64_t position);

// product = silu(gate) * up.   gate_up [rows, 2 width]: gate, then up; product [rows, width].
void SwiGlu(const float* gate_up, int64_t rows, int64_t width, float* product);
void SwiGlu(const Bf16* gate_up, int64_t rows, int64_t width, Bf16* product);

// Gradient of SwiGlu: gate_up -> dgate_up [rows, 2 width]. Also writes the product again, which the
// forward pass did not keep: in place of dproduct [rows, width], which is read first.
void SwiGluGradient(const float* gate_up, int64_t rows, int64_t width, float* dproduct_to_product,
                    float* dgate_up);
void SwiGluGradient(const Bf16* gate_up, int64_t rows, int64_t width, Bf16* dproduct_to_product,
                    Bf16* dgate_up);

// loss[i] = -log softmax(logits[i])[target[i]], in nats. logits [rows, classes] become the losses'
// gradients, softmax(logits[i]) - onehot(target[i]).   target [rows], each in [0, classes); loss
// [rows]. f32 alone: a bf16 model widens its logits for it.
void SoftmaxLoss(float* logits, const int64_t* target, int64_t rows, int64_t classes, float* loss);

// Gradient of a table of embeddings: dweight[i] = the sum of the rows of dy that token i was looked
// up for, in their order, in f32. order: rows of dy, sorted by token and then by row; those of
// token i are order[begins[i]] to order[begins[i + 1]] (exclusive). dy [any, width]; dweight [rows,
// width]; begins [rows + 1].
void EmbeddingGradient(const float* dy, const int64_t* order, const int64_t* begins, int64_t rows,
                       int64_t width, float* dweight);
void EmbeddingGradient(const Bf16* dy, const int64_t* order, const int64_t* begins, int64_t rows,
                       int64_t width, Bf16* dweight);

}  // namespace sdp::kernels

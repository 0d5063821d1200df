#pragma once

#include "ATen/ATen.h"

// Matrix products with their scaling folded into the BLAS call. Operands and results are f32 or
// bf16; bf16 products are summed in f32 and rounded once. Not differentiable.
namespace sdp {

// [..., d] -> [T, d], a view of a contiguous tensor.
inline at::Tensor Rows(const at::Tensor& x) { return x.view({-1, x.size(-1)}); }

// factor * a b.   a [m, k], b [k, n] -> [m, n].
at::Tensor ScaledProduct(const at::Tensor& a, const at::Tensor& b, double factor);
inline at::Tensor Product(const at::Tensor& a, const at::Tensor& b) {
  return ScaledProduct(a, b, 1);
}

// h + factor * a b, in h's shape.   h [..., d], a [T, n], b [n, d].
at::Tensor AddProduct(const at::Tensor& h, const at::Tensor& a, const at::Tensor& b, double factor);

// result = a b.   result [m, n] contiguous, not a part of a or b.
void ProductInto(at::Tensor& result, const at::Tensor& a, const at::Tensor& b);

// sum += factor * a b; kFresh: sum = factor * a b.   sum [m, n] f32, whatever the operands' type.
enum class Sum { kFresh, kContinued };
void AccumulateProduct(at::Tensor& sum, const at::Tensor& a, const at::Tensor& b, double factor,
                       Sum state);

// How bf16 matrices are multiplied. kBlas: by torch's bf16 product. kWidened: in blocks of at most
// 2^20 elements an operand, which are widened and given to the f32 product: several times faster
// on CPUs without instructions for bf16, and never with a whole weight in f32.
enum class Bf16Products { kBlas, kWidened };
// kBlas where the device has such instructions.
Bf16Products Bf16ProductsOn(const at::Device& device);
// beta * c + factor * a b -> result, which may be c; the three in any of the two types. beta 0: c
// is not read.
void WidenedProduct(at::Tensor& result, const at::Tensor& c, double beta, const at::Tensor& a,
                    const at::Tensor& b, double factor);

}  // namespace sdp

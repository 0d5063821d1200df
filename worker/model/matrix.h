#pragma once

#include "ATen/ATen.h"

// Matrix products with their scaling folded into the BLAS call. Not differentiable.
namespace sdp {

// [..., d] -> [T, d], a view of a contiguous tensor.
inline at::Tensor Rows(const at::Tensor& x) { return x.view({-1, x.size(-1)}); }

// factor * a b.
inline at::Tensor ScaledProduct(const at::Tensor& a, const at::Tensor& b, double factor) {
  if (factor == 1) return at::mm(a, b);
  at::Tensor product = at::empty({a.size(0), b.size(1)}, a.options());
  return product.addmm_(a, b, /*beta=*/0,
                        factor);  // beta 0: what was there is ignored, NaN included.
}

// h + factor * a b, in h's shape.   h [..., d], a [T, n], b [n, d].
inline at::Tensor AddProduct(const at::Tensor& h, const at::Tensor& a, const at::Tensor& b,
                             double factor) {
  return at::addmm(Rows(h), a, b, /*beta=*/1, factor).view(h.sizes());
}

}  // namespace sdp

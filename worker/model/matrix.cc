#include "worker/model/matrix.h"

#include <algorithm>

namespace sdp {
namespace {

constexpr int64_t kBlockElements = int64_t{1} << 20;  // of an operand: a fragment's most

bool Widened(const at::Tensor& a) {
  return a.scalar_type() == at::kBFloat16 && Bf16ProductsOn(a.device()) == Bf16Products::kWidened;
}

// Rows and columns of a block of the result: a square whose operands have at most kBlockElements.
int64_t BlockSize(int64_t inner) {
  return std::clamp<int64_t>(kBlockElements / std::max<int64_t>(inner, 1), 64, 1024);
}

}  // namespace

Bf16Products Bf16ProductsOn(const at::Device& device) {
  if (!device.is_cpu()) return Bf16Products::kBlas;
#ifdef __x86_64__
  static const bool has_instructions = __builtin_cpu_supports("avx512bf16") != 0;
  if (has_instructions) return Bf16Products::kBlas;
#endif
  return Bf16Products::kWidened;
}

void WidenedProduct(at::Tensor& result, const at::Tensor& c, double beta, const at::Tensor& a,
                    const at::Tensor& b, double factor) {
  TORCH_CHECK(a.size(1) == b.size(0) && result.size(0) == a.size(0) && result.size(1) == b.size(1),
              "product of ", a.sizes(), " and ", b.sizes(), " into ", result.sizes());
  const int64_t block = BlockSize(a.size(1));
  for (int64_t column = 0; column < b.size(1); column += block) {
    const int64_t columns = std::min(block, b.size(1) - column);
    const at::Tensor right = b.narrow(1, column, columns).to(at::kFloat);
    for (int64_t row = 0; row < a.size(0); row += block) {
      const int64_t rows = std::min(block, a.size(0) - row);
      const at::Tensor left = a.narrow(0, row, rows).to(at::kFloat);
      at::Tensor part = beta == 0 ? at::empty({rows, columns}, left.options())
                                  : c.narrow(0, row, rows)
                                        .narrow(1, column, columns)
                                        .to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
      part.addmm_(left, right, beta, factor);
      result.narrow(0, row, rows).narrow(1, column, columns).copy_(part);
    }
  }
}

at::Tensor ScaledProduct(const at::Tensor& a, const at::Tensor& b, double factor) {
  if (!Widened(a) && factor == 1) return at::mm(a, b);
  at::Tensor product = at::empty({a.size(0), b.size(1)}, a.options());
  if (Widened(a)) {
    WidenedProduct(product, product, /*beta=*/0, a, b, factor);
    return product;
  }
  // beta 0: what was there is ignored, NaN included.
  return product.addmm_(a, b, /*beta=*/0, factor);
}

at::Tensor AddProduct(const at::Tensor& h, const at::Tensor& a, const at::Tensor& b,
                      double factor) {
  if (!Widened(a)) return at::addmm(Rows(h), a, b, /*beta=*/1, factor).view(h.sizes());
  const at::Tensor rows = Rows(h);
  at::Tensor sum = at::empty_like(rows);
  WidenedProduct(sum, rows, /*beta=*/1, a, b, factor);
  return sum.view(h.sizes());
}

void ProductInto(at::Tensor& result, const at::Tensor& a, const at::Tensor& b) {
  if (Widened(a)) {
    WidenedProduct(result, result, /*beta=*/0, a, b, 1);
  } else {
    at::mm_out(result, a, b);
  }
}

void AccumulateProduct(at::Tensor& sum, const at::Tensor& a, const at::Tensor& b, double factor,
                       Sum state) {
  const double keep = state == Sum::kFresh ? 0 : 1;
  if (a.scalar_type() == at::kFloat) {
    sum.addmm_(a, b, keep, factor);
  } else if (Widened(a)) {
    WidenedProduct(sum, sum, keep, a, b, factor);
  } else {
    // Each product is rounded to bf16, their sum is not.
    const at::Tensor product = at::mm(a, b);
    if (state == Sum::kFresh) sum.zero_();
    sum.add_(product, factor);
  }
}

}  // namespace sdp

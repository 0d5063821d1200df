#include "worker/model/decode_attention.h"

#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include "worker/model/matrix.h"

namespace sdp {
namespace {

// keys, values [1, K, n, e]
void Append(KeyValueCache& cache, const at::Tensor& keys, const at::Tensor& values,
            int64_t positions) {
  if (!cache.keys.defined()) {
    const std::vector<int64_t> shape = {1, keys.size(1), positions, keys.size(3)};
    cache.keys = at::empty(shape, keys.options());
    cache.values = at::empty(shape, keys.options());
  }
  cache.keys.narrow(2, cache.length, keys.size(2)).copy_(keys);
  cache.values.narrow(2, cache.length, keys.size(2)).copy_(values);
  cache.length += keys.size(2);
}

// What the last n of `length` tokens may not see, [n, length]: those after each.
at::Tensor FutureMask(int64_t n, int64_t length, const at::TensorOptions& options) {
  return at::full({n, length}, -INFINITY, options).triu(length - n + 1);
}

}  // namespace

at::Tensor DecodeAttention(const at::Tensor& h, const AttentionWeights& weights,
                           const Rotary& rotary, double norm_eps, double factor,
                           KeyValueCache& cache) {
  const int64_t n = h.size(1), e = rotary.head_dim(), before = cache.length;
  const int64_t queries = weights.o.size(1) / e;
  const int64_t keys = (weights.qkv.size(0) / e - queries) / 2;
  at::Tensor qkv = at::matmul(RmsNorm(h, weights.norm, norm_eps).y, weights.qkv.t());
  rotary.ApplyFrom(qkv, queries + keys, before);
  const at::Tensor split = qkv.view({1, n, queries + 2 * keys, e}).transpose(1, 2);
  Append(cache, split.narrow(1, queries, keys), split.narrow(1, queries + keys, keys),
         rotary.length());

  // The first tokens of a sequence are the case that the kernel knows as causal; a single later
  // one sees everything.
  std::optional<at::Tensor> mask;
  if (before > 0 && n > 1) mask = FutureMask(n, cache.length, h.options());
  const at::Tensor out = std::get<0>(at::_scaled_dot_product_flash_attention_for_cpu(
      split.narrow(1, 0, queries), cache.keys.narrow(2, 0, cache.length),
      cache.values.narrow(2, 0, cache.length), /*dropout_p=*/0.0, /*is_causal=*/before == 0, mask));
  return AddProduct(h, out.transpose(1, 2).reshape({n, queries * e}), weights.o.t(), factor);
}

}  // namespace sdp

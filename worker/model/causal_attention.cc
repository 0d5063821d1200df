#include "worker/model/causal_attention.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "common/model/llama_memory.h"
#include "worker/model/kernels_cuda.h"

namespace sdp {
namespace {

constexpr int kFlashCapability = 80;

// The rows [begin, begin + rows) of all samples and heads, in the shapes of batched products.
// Legend: Z = B K pairs of sample and key head, G = H / K query heads of each, m = begin + rows
// keys that the block's rows may see.
struct Block {
  int64_t begin, rows;
  int64_t pairs, group, size;  // Z, G, e

  Block(const at::Tensor& q, const at::Tensor& k, int64_t first, int64_t count)
      : begin(first),
        rows(count),
        pairs(q.size(0) * k.size(1)),
        group(q.size(1) / k.size(1)),
        size(q.size(3)) {}

  // [B, H, L, e] -> [Z, G rows, e]
  at::Tensor Queries(const at::Tensor& x) const {
    return x.narrow(2, begin, rows).reshape({pairs, group * rows, size});
  }
  // [B, K, L, e] -> [Z, m, e]
  at::Tensor Keys(const at::Tensor& x) const {
    return x.narrow(2, 0, begin + rows).reshape({pairs, begin + rows, size});
  }
  // Where [Z, G rows, e] is in x [B, H, L, e].
  void StoreQueries(const at::Tensor& block, at::Tensor& x) const {
    at::Tensor to = x.narrow(2, begin, rows);
    to.copy_(block.view(to.sizes()));
  }
  // Adds [Z, m, e] to x [B, K, L, e].
  void AddKeys(const at::Tensor& block, at::Tensor& x) const {
    at::Tensor to = x.narrow(2, 0, begin + rows);
    to.add_(block.view(to.sizes()));
  }
  // Scaled and masked scores [Z, G rows, m] f32.
  at::Tensor Scores(const at::Tensor& q, const at::Tensor& k) const {
    at::Tensor scores = at::bmm(Queries(q), Keys(k).transpose(1, 2)).to(at::kFloat);
    scores.mul_(1 / std::sqrt(static_cast<double>(size)));
    const at::TensorOptions positions = q.options().dtype(at::kLong);
    const at::Tensor future = at::arange(begin + rows, positions)
                                  .gt(at::arange(begin, begin + rows, positions).unsqueeze(1));
    scores.view({pairs, group, rows, begin + rows}).masked_fill_(future, -INFINITY);
    return scores;
  }
};

// Calls f(block) for blocks of query rows, whose scores are at most kAttentionScores.
template <typename F>
void ForBlocks(const at::Tensor& q, const at::Tensor& k, const F& f) {
  const int64_t length = q.size(2);
  const int64_t per_row = std::max<int64_t>(q.size(0) * q.size(1) * length, 1);
  const int64_t block =
      std::clamp<int64_t>(kAttentionScores / per_row, 1, std::max<int64_t>(length, 1));
  for (int64_t begin = 0; begin < length; begin += block) {
    f(Block(q, k, begin, std::min(block, length - begin)));
  }
}

Attended RowBlocks(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  Attended attended;
  attended.out = at::empty({q.size(0), q.size(2), q.size(1), q.size(3)}, q.options())
                     .transpose(1, 2);  // token by token, as the branch reads it
  attended.log_sum_exp =
      at::empty({q.size(0), q.size(1), q.size(2)}, q.options().dtype(at::kFloat));
  ForBlocks(q, k, [&](const Block& block) {
    at::Tensor scores = block.Scores(q, k);
    const at::Tensor largest = scores.amax(-1, /*keepdim=*/true);
    scores.sub_(largest).exp_();
    const at::Tensor sum = scores.sum(-1, /*keepdim=*/true);
    at::Tensor lse = attended.log_sum_exp.narrow(2, block.begin, block.rows);
    lse.copy_((largest + sum.log()).view(lse.sizes()));
    scores.div_(sum);
    block.StoreQueries(at::bmm(scores.to(q.scalar_type()), block.Keys(v)), attended.out);
  });
  return attended;
}

AttentionGradients RowBlocksGradient(const at::Tensor& dout, const at::Tensor& q,
                                     const at::Tensor& k, const at::Tensor& v,
                                     const Attended& attended) {
  const double scale = 1 / std::sqrt(static_cast<double>(q.size(3)));
  const auto wide = q.options().dtype(at::kFloat);
  AttentionGradients gradients{at::empty(q.sizes(), q.options()), at::zeros(k.sizes(), wide),
                               at::zeros(v.sizes(), wide)};
  ForBlocks(q, k, [&](const Block& block) {
    at::Tensor p = block.Scores(q, k);
    const at::Tensor lse = attended.log_sum_exp.narrow(2, block.begin, block.rows)
                               .reshape({block.pairs, block.group * block.rows, 1});
    p.sub_(lse).exp_();
    const at::Tensor dout_rows = block.Queries(dout);
    const at::Tensor narrow_p = p.to(q.scalar_type());
    block.AddKeys(at::bmm(narrow_p.transpose(1, 2), dout_rows), gradients.v);
    at::Tensor dscores = at::bmm(dout_rows, block.Keys(v).transpose(1, 2)).to(at::kFloat);
    const at::Tensor dot = (dout_rows.to(at::kFloat) * block.Queries(attended.out).to(at::kFloat))
                               .sum(-1, /*keepdim=*/true);
    dscores.sub_(dot).mul_(p).mul_(scale);
    const at::Tensor narrow = dscores.to(q.scalar_type());
    block.StoreQueries(at::bmm(narrow, block.Keys(k)), gradients.q);
    block.AddKeys(at::bmm(narrow.transpose(1, 2), block.Queries(q)), gradients.k);
  });
  gradients.k = gradients.k.to(k.scalar_type());
  gradients.v = gradients.v.to(v.scalar_type());
  return gradients;
}

bool HasFlash([[maybe_unused]] const at::Device& device) {
  if constexpr (kernels::kCudaBuilt) {
    return kernels::cuda::ComputeCapability(device.index()) >= kFlashCapability;
  } else {
    return false;
  }
}

}  // namespace

AttentionKernel AttentionKernelFor(const at::Tensor& q) {
  if (q.is_cpu()) return AttentionKernel::kCpuTiles;
  const bool fits =
      q.scalar_type() == at::kBFloat16 && q.size(3) % 8 == 0 && q.size(3) <= kFlashHeadSize;
  return fits && HasFlash(q.device()) ? AttentionKernel::kCudaFlash : AttentionKernel::kRowBlocks;
}

Attended CausalAttention(AttentionKernel kernel, const at::Tensor& q, const at::Tensor& k,
                         const at::Tensor& v) {
  Attended attended;
  switch (kernel) {
    case AttentionKernel::kCpuTiles:
      // What scaled_dot_product_attention takes on CPUs, called by name to get at the log-sum-exp.
      // It works in tiles, is deterministic and pairs query heads with their group's key head
      // itself.
      std::tie(attended.out, attended.log_sum_exp) =
          at::_scaled_dot_product_flash_attention_for_cpu(q, k, v, /*dropout_p=*/0.0,
                                                          /*is_causal=*/true);
      return attended;
    case AttentionKernel::kCudaFlash: {
      auto result = at::_scaled_dot_product_flash_attention(q, k, v, /*dropout_p=*/0.0,
                                                            /*is_causal=*/true);
      attended.out = std::get<0>(result);
      attended.log_sum_exp = std::get<1>(result);
      attended.random_seed = std::get<6>(result);
      attended.random_at = std::get<7>(result);
      return attended;
    }
    case AttentionKernel::kRowBlocks:
      break;
  }
  return RowBlocks(q, k, v);
}

AttentionGradients CausalAttentionGradient(AttentionKernel kernel, const at::Tensor& dout,
                                           const at::Tensor& q, const at::Tensor& k,
                                           const at::Tensor& v, const Attended& attended) {
  AttentionGradients gradients;
  switch (kernel) {
    case AttentionKernel::kCpuTiles:
      std::tie(gradients.q, gradients.k, gradients.v) =
          at::_scaled_dot_product_flash_attention_for_cpu_backward(
              dout, q, k, v, attended.out, attended.log_sum_exp, /*dropout_p=*/0.0,
              /*is_causal=*/true);
      return gradients;
    case AttentionKernel::kCudaFlash:
      // Samples of equal length: no table of where each begins.
      std::tie(gradients.q, gradients.k, gradients.v) =
          at::_scaled_dot_product_flash_attention_backward(
              dout, q, k, v, attended.out, attended.log_sum_exp, /*cum_seq_q=*/at::Tensor(),
              /*cum_seq_k=*/at::Tensor(), q.size(2), k.size(2), /*dropout_p=*/0.0,
              /*is_causal=*/true, attended.random_seed, attended.random_at);
      return gradients;
    case AttentionKernel::kRowBlocks:
      break;
  }
  return RowBlocksGradient(dout, q, k, v, attended);
}

}  // namespace sdp

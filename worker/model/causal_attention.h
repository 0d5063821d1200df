#pragma once

#include "ATen/ATen.h"

// softmax(q k^T / sqrt(e) + causal mask) v for grouped queries: query head h uses key and value
// head h / (H / K).   q [B, H, L, e]; k, v [B, K, L, e], any strides with the last dimension
// contiguous. Softmax in f32. Never stores scores of L x L; same input, same bits. Not
// differentiable.
namespace sdp {

// Ways to compute it.
enum class AttentionKernel {
  kCpuTiles,   // torch's flash attention for CPUs, f32 and bf16
  kCudaFlash,  // torch's flash attention for GPUs: bf16, e <= 192 and a multiple of 8, from compute
               // capability 8.0 on; its backward pass is deterministic in torch's mode of that name
  kRowBlocks,  // plain products over blocks of query rows on any device: the rest. Holds the scores
               // of one block, at most 64 MiB three times over
};
// The fastest of them for queries of this type, size and device. Torch's memory-efficient
// attention, which GPUs also have for f32, is not among them: it wants each key head repeated for
// all query heads of its group.
AttentionKernel AttentionKernelFor(const at::Tensor& q);

struct Attended {
  at::Tensor out;                     // [B, H, L, e]
  at::Tensor log_sum_exp;             // [B, H, L] f32, of the scaled scores
  at::Tensor random_seed, random_at;  // of kCudaFlash, whose backward pass asks for them
};
Attended CausalAttention(AttentionKernel kernel, const at::Tensor& q, const at::Tensor& k,
                         const at::Tensor& v);

struct AttentionGradients {
  at::Tensor q, k, v;  // as their values
};
AttentionGradients CausalAttentionGradient(AttentionKernel kernel, const at::Tensor& dout,
                                           const at::Tensor& q, const at::Tensor& k,
                                           const at::Tensor& v, const Attended& attended);

}  // namespace sdp

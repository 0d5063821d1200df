#include "common/model/llama_memory.h"

#include <algorithm>

// Letters as in llama.cc, where a worker may hold a part of d (of heads), k and f; T: tokens
// computed at once. Each line of a max() is a moment of worker/model/{attention,mlp,head_loss}.cc,
// in its order: all that the stage has allocated by then and not freed.
namespace sdp {
namespace {

constexpr int64_t kF32 = 4;
constexpr int64_t kNormRows = 64;  // row_ops.cc: a row of sums of a norm's gradient per 64 rows

struct Sizes {
  LlamaSpec spec;
  ElementSizes bytes;
  int64_t tokens;  // T
  int64_t length;  // L
  int threads;
  int64_t d = spec.dim;
  int64_t row = tokens * bytes.activation;  // one element per token
  int64_t statistic = tokens * kF32;        // the same in f32: 1 / rms, log-sum-exp
  int64_t norm_sums = NormSums(tokens);

  // Rows of sums of a norm's gradient, and their total.
  int64_t NormSums(int64_t rows) const {
    return ((rows + kNormRows - 1) / kNormRows + 1) * d * kF32;
  }
};

StageMemory Embed(const Sizes& s) {
  StageMemory m;
  m.parameters = s.spec.vocab * s.d;
  m.spent_forward = s.spec.tied ? 0 : m.parameters;  // Tied: the head reads it last.
  m.output = s.row * s.d;
  m.forward = m.evaluate = m.output;
  m.backward = m.parameters * s.bytes.gradient;
  return m;
}

// What torch's attention kernel works in, per thread: a block of scores of its tile of queries and
// keys (two in the backward pass, where they have gradients), row statistics, and the tile's
// output.
struct AttentionScratch {
  int64_t forward, backward;

  explicit AttentionScratch(const Sizes& s) {
    const int64_t queries = std::min<int64_t>(s.length, s.length >= 768   ? 256
                                                        : s.length >= 192 ? 64
                                                                          : 32);
    const int64_t scores = queries * std::min<int64_t>(s.length, 512);
    forward = s.threads * (scores + 2 * queries + queries * s.spec.head_dim()) * kF32;
    backward = s.threads * (2 * scores + queries) * kF32;
  }
};

// `width`: of the query heads that are held together; `kv`: of their kv heads.
StageMemory Attention(const Sizes& s, int64_t width, int64_t kv) {
  const AttentionScratch scratch(s);
  StageMemory m;
  const int64_t qkv_width = width + 2 * kv;
  const int64_t qkv_weight = qkv_width * s.d * s.bytes.gradient;
  const int64_t o_weight = width * s.d * s.bytes.gradient;
  const int64_t qkv = s.row * qkv_width;
  const int64_t out = s.row * width;
  const int64_t log_sum_exp = s.statistic * (width / s.spec.head_dim());
  m.parameters = m.spent_backward = s.d + (qkv_width + width) * s.d;
  m.spent_first = qkv_width * s.d;
  m.output = s.row * s.d;
  m.stored = s.statistic + qkv + out + log_sum_exp;
  m.forward = m.evaluate = std::max(
      /*norm, then projection*/ s.row * s.d + s.statistic + qkv,
      /*attention, then o_proj onto the residual*/ m.stored + std::max(scratch.forward, m.output));
  // Without weights' gradients there is room in place of the normed input for its gradient.
  const auto backward = [&](int64_t do_weight, int64_t dqkv_weight) {
    return std::max({
        /*attention*/ do_weight + out + qkv + scratch.backward,
        /*dq, dk, dv into one*/ do_weight + 2 * qkv,
        /*qkv's gradient*/ do_weight + qkv + s.row * s.d + dqkv_weight,
        /*norm*/ do_weight + dqkv_weight + 2 * s.row * s.d + s.norm_sums,
    });
  };
  m.backward = backward(o_weight, qkv_weight);
  m.backward_read_only = backward(0, 0);
  return m;
}

// `f`: neurons that are held.
StageMemory Mlp(const Sizes& s, int64_t f) {
  StageMemory m;
  const int64_t matrix = f * s.d * s.bytes.gradient;
  m.parameters = m.spent_backward = s.d + 3 * f * s.d;
  m.spent_first = 2 * f * s.d;
  m.output = s.row * s.d;
  m.stored = s.statistic + 2 * s.row * f;
  m.forward = m.evaluate = std::max(
      /*norm, then gate and up*/ s.row * s.d + m.stored,
      /*product, then down onto the residual*/ m.stored + s.row * f + m.output);
  const auto backward = [&](int64_t of_matrix) {
    return std::max({
        /*product and gradient of gate, up, then down's gradient*/ 3 * s.row * f + of_matrix,
        /*gradient of gate_up*/ 2 * s.row * f + s.row * s.d + 3 * of_matrix,
        /*norm*/ 3 * of_matrix + 2 * s.row * s.d + s.norm_sums,
    });
  };
  m.backward = backward(matrix);
  m.backward_read_only = backward(0);
  return m;
}

StageMemory Head(const Sizes& s) {
  StageMemory m;
  const int64_t rows = std::min(LlamaHeadChunk(s.spec.vocab), s.tokens);
  const int64_t projection = s.spec.vocab * s.d;
  const int64_t chunk = rows * (s.d * s.bytes.activation + kF32 + s.spec.vocab * kF32);
  const int64_t through_norm = 2 * rows * s.d * s.bytes.activation + s.NormSums(rows);
  m.parameters = s.d + (s.spec.tied ? 0 : projection);
  m.spent_forward = s.d + projection;
  m.stores_input = false;  // its gradient takes its place
  m.early_gradients = (s.d + projection) * s.bytes.gradient;
  m.stored = s.row * s.d + m.early_gradients;
  // Losses stay until the last chunk; the peak is that of the last whole one.
  const int64_t losses = s.tokens / std::max<int64_t>(rows, 1) * rows * kF32;
  m.forward = m.stored + chunk + through_norm + losses;
  m.evaluate = chunk + rows * kF32;
  return m;
}

}  // namespace

std::vector<StageMemory> LlamaMemory(const LlamaSpec& spec, int64_t seq_len, int64_t samples,
                                     absl::Span<const int64_t> held, const ElementSizes& sizes,
                                     int threads) {
  const Sizes s{.spec = spec,
                .bytes = sizes,
                .tokens = samples * seq_len,
                .length = seq_len,
                .threads = threads};
  std::vector<StageMemory> stages = {Embed(s)};
  for (int64_t layer = 0; layer < spec.layers; ++layer) {
    // The catalog's order: embedding; per layer norm, q, k, v, o, norm, gate, up, down.
    const absl::Span<const int64_t> tensors = held.subspan(static_cast<size_t>(1 + 9 * layer), 9);
    stages.push_back(Attention(s, tensors[1] / s.d, tensors[2] / s.d));
    stages.push_back(Mlp(s, tensors[6] / s.d));
  }
  stages.push_back(Head(s));
  return stages;
}

int64_t LlamaTableBytes(const LlamaSpec& spec, int64_t seq_len) {
  return 2 * seq_len * (spec.head_dim() / 2) * kF32;
}

int64_t LlamaHeadChunk(int64_t vocab) { return std::max<int64_t>(256, (int64_t{1} << 20) / vocab); }

}  // namespace sdp

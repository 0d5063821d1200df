#include "common/model/llama_memory.h"

#include <algorithm>
#include <numeric>

#include "absl/types/span.h"

// Letters as in llama.cc, where a worker may hold a part of d (of heads), k and f; T: tokens
// computed at once. Each line of a max() is a moment of worker/model/{attention,mlp,head_loss}.cc,
// in its order: all that the stage has allocated by then and not freed.
namespace sdp {
namespace {

using Elements = absl::Span<const int64_t>;  // of some of the catalog's tensors, in its order

constexpr int64_t kF32 = 4;
constexpr int64_t kNormRows = 64;  // row_ops.cc: a row of sums of a norm's gradient per 64 rows
constexpr int64_t kWidenedElements = int64_t{1} << 20;  // matrix.cc: of an operand, at once

int64_t Sum(Elements elements) {
  return std::accumulate(elements.begin(), elements.end(), int64_t{0});
}

struct Sizes {
  LlamaSpec spec;
  ElementSizes bytes;
  int64_t tokens;   // T
  int64_t samples;  // B
  int64_t length;   // L
  Computer computer;
  int64_t d = spec.dim;
  int64_t row = tokens * bytes.activation;  // one element per token
  int64_t statistic = tokens * kF32;        // the same in f32: 1 / rms, log-sum-exp
  int64_t norm_sums = NormSums(tokens);

  // Rows of sums of a norm's gradient, and their total.
  int64_t NormSums(int64_t rows) const {
    return ((rows + kNormRows - 1) / kNormRows + 1) * d * kF32;
  }
  bool Narrow() const { return bytes.activation < kF32; }
  bool Widens() const {
    return Narrow() && computer.place == MemoryPlace::kHost && !computer.multiplies_bf16;
  }
  // What a product [m, k] [k, n] works in: where operands are widened, blocks of them and of the
  // product in f32.
  int64_t Product(int64_t m, int64_t k, int64_t n) const {
    if (!Widens() || m == 0 || k == 0 || n == 0) return 0;
    const int64_t block = std::clamp<int64_t>(kWidenedElements / k, 64, 1024);
    m = std::min(m, block);
    n = std::min(n, block);
    return (m * k + k * n + m * n) * kF32;
  }
};

StageMemory Embed(const Sizes& s) {
  StageMemory m;
  m.trained = m.parameters = s.spec.vocab * s.d;
  m.spent_forward = s.spec.tied ? 0 : m.parameters;  // Tied: the head reads it last.
  m.output = s.row * s.d;
  m.forward = m.evaluate = m.output;
  m.backward = m.parameters * s.bytes.gradient;
  return m;
}

// What attention's kernel works in, beside its operands and results.
struct AttentionScratch {
  int64_t forward = 0, backward = 0;
};

// torch's on CPUs, per thread: a block of scores of its tile of queries and keys (two in the
// backward pass, where they have gradients), with a copy in bf16 if that is what is multiplied, row
// statistics, and the tile's output.
AttentionScratch CpuTiles(const Sizes& s) {
  const int64_t queries = std::min<int64_t>(s.length, s.length >= 768   ? 256
                                                      : s.length >= 192 ? 64
                                                                        : 32);
  const int64_t scores = queries * std::min<int64_t>(s.length, 512);
  const int64_t threads = s.computer.threads;
  const int64_t score = kF32 + (s.Narrow() ? s.bytes.activation : 0);
  return {.forward = threads * (scores * score + (2 + s.spec.head_dim()) * queries * kF32),
          .backward = threads * (2 * scores * score + queries * kF32)};
}

// Ours on GPUs, where there is no flash attention: blocks of rows of `heads` query heads and `kv`
// others. Operands are copied out of the layer's one tensor.
AttentionScratch RowBlocks(const Sizes& s, int64_t heads, int64_t kv) {
  const int64_t a = s.bytes.activation;
  const int64_t of_row = s.samples * heads;
  const int64_t block =
      std::clamp<int64_t>(kAttentionScores / std::max<int64_t>(of_row * s.length, 1), 1,
                          std::max<int64_t>(s.length, 1));
  AttentionScratch scratch;
  for (int64_t begin = 0; begin < s.length; begin += block) {
    const int64_t rows = std::min(block, s.length - begin), keys = begin + rows;
    const int64_t statistic = of_row * rows * kF32;
    const int64_t scores = of_row * rows * keys * kF32;
    // What products take and give.
    const int64_t copied = s.Narrow() ? of_row * rows * keys * a : 0;
    const int64_t queries = of_row * rows * s.spec.head_dim() * a;
    const int64_t others = s.samples * kv * keys * s.spec.head_dim() * a;  // keys, or values
    scratch.forward =
        std::max({scratch.forward, scores + copied + queries + others,
                  scores + std::max(4 * statistic, 2 * statistic + copied + others + queries)});
    scratch.backward = std::max(
        {scratch.backward,
         /*scores' gradient*/ 2 * (scores + copied) + statistic + queries + others,
         /*rows' products*/ 2 * scores + copied + 2 * statistic + 3 * queries,
         /*keys' gradient*/ 2 * scores + 2 * copied + 2 * statistic + 2 * queries + others});
  }
  return scratch;
}

// torch's on GPUs. Only its backward pass: sums for the queries' gradient in f32, several where
// there are fewer heads than multiprocessors, so that they add up in a fixed order; row statistics;
// with grouped queries, gradients of keys and values for each query head.
AttentionScratch CudaFlash(const Sizes& s, int64_t heads, int64_t kv) {
  constexpr int64_t kMultiprocessors = 132;  // of an H100; other cards may take more or less
  constexpr int64_t kRows = 128;             // what lengths are rounded up to
  const int64_t size = s.spec.head_dim(), to = size <= 128 ? 32 : 64;
  const int64_t pairs = std::max<int64_t>(s.samples * heads, 1);
  const int64_t rows = pairs * ((s.length + kRows - 1) / kRows * kRows);
  const int64_t sums = (kMultiprocessors + pairs - 1) / pairs;
  const int64_t grouped = heads == kv ? 0 : 2 * s.row * heads * size;
  return {.backward = sums * rows * ((size + to - 1) / to * to) * kF32 + rows * kF32 + grouped};
}

AttentionScratch AttentionScratchOf(const Sizes& s, int64_t heads, int64_t kv) {
  if (s.computer.place == MemoryPlace::kHost) return CpuTiles(s);
  // As AttentionKernelFor (worker/model/causal_attention.cc) for the cards of today.
  const bool flash =
      s.Narrow() && s.spec.head_dim() % 8 == 0 && s.spec.head_dim() <= kFlashHeadSize;
  return flash ? CudaFlash(s, heads, kv) : RowBlocks(s, heads, kv);
}

// Where a part of a branch is trained and the rest read, the part of an operand, of `trained` of
// `all` columns, is copied for the product that makes a weight's gradient.
int64_t Copied(const Sizes& s, int64_t trained, int64_t all) {
  return trained < all ? s.row * trained : 0;
}

// Of tensors norm, q, k, v, o.
StageMemory Attention(const Sizes& s, Elements computed, Elements trained) {
  StageMemory m;
  const int64_t width = computed[1] / s.d, kv = computed[2] / s.d;
  const AttentionScratch scratch =
      AttentionScratchOf(s, width / s.spec.head_dim(), kv / s.spec.head_dim());
  const int64_t qkv_width = width + 2 * kv;
  const int64_t trained_width = (trained[1] + 2 * trained[2]) / s.d;
  const int64_t qkv_weight = trained_width * s.d * s.bytes.gradient;
  const int64_t o_weight = trained[4] * s.bytes.gradient;
  const int64_t qkv = s.row * qkv_width;
  const int64_t out = s.row * width;
  const int64_t log_sum_exp = s.statistic * (width / s.spec.head_dim());
  m.parameters = m.spent_backward = Sum(computed);
  m.trained = Sum(trained);
  m.spent_first = qkv_width * s.d;
  m.output = s.row * s.d;
  m.stored = s.statistic + qkv + out + log_sum_exp;
  m.forward = m.evaluate = std::max({
      /*norm, then projection*/ s.row * s.d + s.statistic + qkv +
          s.Product(s.tokens, s.d, qkv_width),
      /*attention*/ m.stored + scratch.forward,
      /*o_proj onto the residual*/ m.stored + m.output + s.Product(s.tokens, width, s.d),
  });
  const int64_t trained_out = trained[4] / s.d;
  const int64_t copied = Copied(s, trained_width, qkv_width);
  // Without weights' gradients there is room in place of the normed input for its gradient.
  m.backward = std::max({
      /*o's gradient*/ o_weight + Copied(s, trained_out, width) +
          s.Product(s.d, s.tokens, trained_out),
      /*that of what it reads*/ o_weight + out + s.Product(s.tokens, s.d, width),
      /*attention*/ o_weight + out + qkv + scratch.backward,
      /*dq, dk, dv into one*/ o_weight + 2 * qkv,
      /*qkv's gradient*/ o_weight + qkv + s.row * s.d + copied + qkv_weight +
          s.Product(trained_width, s.tokens, s.d),
      /*the normed input's*/ o_weight + qkv_weight + qkv + s.row * s.d +
          s.Product(s.tokens, qkv_width, s.d),
      /*norm*/ o_weight + qkv_weight + 2 * s.row * s.d + s.norm_sums,
  });
  return m;
}

// Of tensors norm, gate, up, down.
StageMemory Mlp(const Sizes& s, Elements computed, Elements trained) {
  StageMemory m;
  const int64_t f = computed[1] / s.d, trained_f = trained[1] / s.d;
  const int64_t matrix = trained[1] * s.bytes.gradient;
  m.parameters = m.spent_backward = Sum(computed);
  m.trained = Sum(trained);
  m.spent_first = 2 * f * s.d;
  m.output = s.row * s.d;
  m.stored = s.statistic + 2 * s.row * f;
  m.forward = m.evaluate = std::max(
      /*norm, then gate and up*/ s.row * s.d + m.stored + s.Product(s.tokens, s.d, 2 * f),
      /*product, then down onto the residual*/ m.stored + s.row * f + m.output +
          s.Product(s.tokens, f, s.d));
  const int64_t copied = Copied(s, trained_f, f);
  m.backward = std::max({
      /*gradient of the product*/ s.row * f + s.Product(s.tokens, s.d, f),
      /*product and gradient of gate, up, then down's gradient*/ 3 * s.row * f + copied + matrix +
          s.Product(s.d, s.tokens, trained_f),
      /*gradient of gate_up*/ 2 * s.row * f + s.row * s.d + 2 * copied + 3 * matrix +
          s.Product(2 * trained_f, s.tokens, s.d),
      /*the normed input's*/ 2 * s.row * f + s.row * s.d + 3 * matrix +
          s.Product(s.tokens, 2 * f, s.d),
      /*norm*/ 3 * matrix + 2 * s.row * s.d + s.norm_sums,
  });
  return m;
}

StageMemory Head(const Sizes& s) {
  StageMemory m;
  const int64_t v = s.spec.vocab, rows = std::min(LlamaHeadChunk(v), s.tokens);
  const int64_t projection = v * s.d;
  m.trained = m.parameters = s.d + (s.spec.tied ? 0 : projection);
  m.spent_forward = s.d + projection;
  m.stores_input = false;  // its gradient takes its place
  m.early_gradients = (s.d + projection) * s.bytes.gradient;
  m.stored = s.row * s.d + m.early_gradients;
  // Of a chunk of rows.
  const int64_t hidden = rows * s.d * s.bytes.activation, normed = hidden + rows * kF32;
  const int64_t logits = rows * v * kF32;
  const int64_t rounded = s.Narrow() ? rows * v * s.bytes.activation : 0;  // logits, their gradient
  m.evaluate = normed + std::max({rounded + s.Product(rows, s.d, v), rounded + logits,
                                  /*losses*/ logits + rows * kF32});
  // Losses stay until the last chunk; the peak is that of the last whole one. Sums over chunks are
  // f32.
  const int64_t losses = s.tokens / std::max<int64_t>(rows, 1) * rows * kF32;
  const int64_t sums = (s.d + projection) * kF32;
  // What is widened is added to the sum block by block, a product in bf16 at once.
  int64_t summed = s.Product(v, rows, s.d);
  if (s.Narrow() && !s.Widens()) summed = projection * s.bytes.gradient;
  m.forward = s.row * s.d + losses +
              std::max({
                  /*logits*/ sums + m.evaluate,
                  /*projection's gradient*/ sums + normed + logits + rounded + summed,
                  /*the normed input's*/ sums + normed + logits + rounded + hidden +
                      s.Product(rows, v, s.d),
                  /*norm*/ sums + normed + logits + rounded + 2 * hidden + s.NormSums(rows),
                  /*sums are rounded*/ s.Narrow() ? projection * kF32 + m.early_gradients : 0,
              });
  return m;
}

}  // namespace

std::vector<StageMemory> LlamaMemory(const LlamaSpec& spec, int64_t seq_len, int64_t samples,
                                     const HeldTensors& held, const ElementSizes& sizes,
                                     const Computer& computer) {
  const Sizes s{.spec = spec,
                .bytes = sizes,
                .tokens = samples * seq_len,
                .samples = samples,
                .length = seq_len,
                .computer = computer};
  std::vector<StageMemory> stages = {Embed(s)};
  for (int64_t layer = 0; layer < spec.layers; ++layer) {
    // The catalog's order: embedding; per layer norm, q, k, v, o, norm, gate, up, down.
    const auto first = static_cast<size_t>(1 + 9 * layer);
    const Elements computed = Elements(held.computed).subspan(first, 9);
    const Elements trained = Elements(held.trained).subspan(first, 9);
    stages.push_back(Attention(s, computed.first(5), trained.first(5)));
    stages.push_back(Mlp(s, computed.subspan(5), trained.subspan(5)));
  }
  stages.push_back(Head(s));
  return stages;
}

int64_t LlamaTableBytes(const LlamaSpec& spec, int64_t seq_len) {
  return 2 * seq_len * (spec.head_dim() / 2) * kF32;
}

int64_t LlamaHeadChunk(int64_t vocab) { return std::max<int64_t>(256, (int64_t{1} << 20) / vocab); }

}  // namespace sdp

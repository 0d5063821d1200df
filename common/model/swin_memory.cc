#include "common/model/swin_memory.h"

#include <algorithm>
#include <cstddef>
#include <utility>

// Letters as in swin.cc; a worker may hold a part of the heads and neurons. Each line of a max() is
// a moment of worker/model/{swin_branches,window_attention,swin_ends,classifier}.cc, in its order:
// all that the stage has allocated by then and not freed, without vectors of a width. In bytes: x,
// a stage's input; q, the queries of the heads that are here, as many as keys, values, or what
// attention makes of them; f, the neurons that are here; w..., gradients of weights.
namespace sdp {
namespace {

constexpr int64_t kF32 = 4;
constexpr int64_t kScoresAtOnce = int64_t{1} << 20;  // window_attention.cc

class SwinStages {
 public:
  SwinStages(const SwinSpec& spec, int64_t samples, const HeldTensors& held,
             const ElementSizes& sizes)
      : spec_(spec), samples_(samples), held_(held), sizes_(sizes) {}

  std::vector<StageMemory> All() {
    AddEmbed();
    for (level_ = 0; level_ < spec_.depths.size(); ++level_) {
      for (int64_t block = 0; block < spec_.depths[level_]; ++block) {
        AddAttention(spec_.shift(level_, block) > 0);
        AddMlp();
      }
      if (level_ + 1 < spec_.depths.size()) AddMerge();
    }
    level_ = spec_.depths.size() - 1;
    AddHead();
    return std::move(stages_);
  }

 private:
  // What attention within windows works in beside queries, keys, values and its output: the numbers
  // that it adds to scores, and of some windows at once q, k, v by head and scores.
  struct Scratch {
    int64_t added, forward, backward;
  };

  int64_t Computed(size_t tensor) const { return held_.computed[next_ + tensor]; }
  // The gradient of the stage's tensor, counted from 0.
  int64_t GradientOf(size_t tensor) const {
    return held_.trained[next_ + tensor] * sizes_.gradient;
  }
  // Of an activation of as many elements a token as `bias` has, what is copied: the part that is
  // trained, where the rest is only read.
  int64_t Part(size_t bias) const {
    const int64_t trained = held_.trained[next_ + bias];
    return trained < Computed(bias) ? Activation(trained) : 0;
  }

  int64_t rows() const { return samples_ * spec_.tokens(level_); }  // tokens
  int64_t Activation(int64_t width) const { return rows() * width * sizes_.activation; }
  static int64_t Statistics(int64_t rows) { return 2 * kF32 * rows; }  // mean and 1 / std

  // Adds a stage that reads the catalog's next tensors.
  void Add(size_t tensors, StageMemory m) {
    for (; tensors > 0; --tensors, ++next_) {
      m.parameters += held_.computed[next_];
      m.trained += held_.trained[next_];
    }
    m.spent_backward = m.parameters;
    stages_.push_back(m);
  }

  // What is left of a branch of which no part is here: h + bias.
  void AddBias(size_t tensors, int64_t x) {
    StageMemory m;
    m.output = m.forward = m.evaluate = x;
    m.stores_input = false;
    Add(tensors, m);
  }

  void AddEmbed() {
    const int64_t patches =
        samples_ * spec_.channels * spec_.image_size * spec_.image_size * sizes_.activation;
    const int64_t x = Activation(spec_.dim);
    StageMemory m;
    m.output = x;
    m.stores_input = false;
    m.forward = m.evaluate = patches + 2 * x + Statistics(rows());
    m.backward = m.forward + GradientOf(0);
    Add(4, m);
  }

  Scratch ScratchOf(int64_t heads, bool shifted) const {
    const int64_t tokens = spec_.window * spec_.window;
    const int64_t windows = spec_.tokens(level_) / tokens;
    const int64_t together = shifted ? windows : 1;  // have numbers of their own
    const int64_t of_window = heads * tokens * tokens;
    const int64_t chunk = std::max<int64_t>(kScoresAtOnce / (together * of_window), 1) * together;
    const int64_t at_once = std::min(chunk, samples_ * windows);
    const int64_t scores = at_once * of_window * kF32;
    const int64_t q = at_once * tokens * heads * (spec_.width(level_) / spec_.heads[level_]) * kF32;
    return {.added = together * of_window * kF32,
            .forward = 3 * q + std::max(/*softmax*/ 2 * scores, /*values*/ scores + q),
            .backward = of_window * kF32 +  // the scores' gradient, summed up over windows
                        3 * q + std::max(/*softmax*/ 3 * scores + q, /*q, k*/ 2 * (scores + q))};
  }

  // Of norm, bias, table, weight and bias of q, k, v, weight and bias of the projection.
  void AddAttention(bool shifted) {
    const int64_t d = spec_.width(level_), x = Activation(d), q = Activation(Computed(5) / d);
    if (q == 0) return AddBias(7, x);
    const int64_t heads = Computed(5) / d / (d / spec_.heads[level_]);
    const Scratch scratch = ScratchOf(heads, shifted);
    const int64_t statistics = Statistics(rows());
    const int64_t wqkv = GradientOf(3), wproj = GradientOf(5);
    StageMemory m;
    m.output = x;
    m.stored = 3 * q;
    m.forward = m.evaluate = std::max({
        /*norm, then by window*/ 2 * x + statistics,
        /*q, k and v*/ x + 3 * q,
        /*attention*/ 4 * q + scratch.added + scratch.forward,
        /*its output by token*/ 5 * q,
        /*projection onto the residual*/ 4 * q + x,
    });
    const bool trained = wproj > 0;
    const int64_t part = Part(/*bias=*/4);  // of q, k and v
    m.backward = std::max({
        /*attention, and its output*/ (trained ? 5 : 4) * q + scratch.added + scratch.backward,
        /*that by token, then the projection's gradient*/
        trained ? 4 * q + std::max(q, part / 3 + wproj) : 0,
        /*norm, then by window*/ wproj + 3 * q + (trained ? 2 : 1) * x + statistics,
        /*gradients of q, k and v's weight and its input*/
        wproj + wqkv + 3 * q + part + x + statistics,
        /*by token, then through the norm*/ wproj + wqkv + 2 * x + statistics,
    });
    Add(7, m);
  }

  // Of norm, bias, weight and bias of the first map, weight and bias of the second.
  void AddMlp() {
    const int64_t d = spec_.width(level_), x = Activation(d), f = Activation(Computed(3));
    if (f == 0) return AddBias(6, x);
    const int64_t statistics = Statistics(rows());
    const int64_t w1 = GradientOf(2), w2 = GradientOf(4);
    StageMemory m;
    m.output = x;
    m.stored = f;
    m.forward = m.evaluate = std::max({
        /*norm, then the first map*/ x + statistics + f,
        /*GELU, then the second map onto the residual*/ 2 * f + x,
    });
    const int64_t part = Part(/*bias=*/3);
    m.backward = std::max({
        /*GELU, then the second map's gradient*/ part > 0 ? 2 * part + w2 : f + w2,
        /*neurons' gradient; norm, then the first map's gradient*/ w2 + f + x + statistics + part +
            w1,
        /*norm*/ w2 + w1 + 2 * x + statistics,
    });
    Add(6, m);
  }

  // Of weight, norm, bias. A quarter of the tokens, four times as wide.
  void AddMerge() {
    const int64_t x = Activation(spec_.width(level_)), statistics = Statistics(rows() / 4);
    const int64_t w = GradientOf(0);
    StageMemory m;
    m.output = x / 2;
    m.forward = m.evaluate = 2 * x + statistics;
    m.backward = std::max(/*norm*/ 3 * x + statistics + w, /*into the tokens' places*/ 2 * x + w);
    Add(3, m);
  }

  // Of norm, bias, weight, bias.
  void AddHead() {
    const int64_t x = Activation(spec_.width(level_));
    const int64_t mean = samples_ * spec_.width(level_) * sizes_.activation;
    const int64_t logits = samples_ * (spec_.classes + 1) * kF32;  // and losses
    StageMemory m;
    // The norm's follow at once.
    m.early_gradients = GradientOf(0) + GradientOf(1) + GradientOf(2) + GradientOf(3);
    m.stored = m.early_gradients + mean;
    m.evaluate = mean + std::max(x + Statistics(rows()), logits);
    m.forward = std::max(m.evaluate, m.stored + mean + logits);
    m.backward = 2 * x + Statistics(rows());
    Add(4, m);
  }

  const SwinSpec& spec_;
  const int64_t samples_;
  const HeldTensors& held_;
  const ElementSizes& sizes_;
  size_t level_ = 0;
  size_t next_ = 0;  // tensor
  std::vector<StageMemory> stages_;
};

}  // namespace

std::vector<StageMemory> SwinMemory(const SwinSpec& spec, int64_t samples, const HeldTensors& held,
                                    const ElementSizes& sizes) {
  return SwinStages(spec, samples, held, sizes).All();
}

}  // namespace sdp

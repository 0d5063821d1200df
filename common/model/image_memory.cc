#include "common/model/image_memory.h"

#include <algorithm>
#include <cstddef>
#include <utility>

// Each line of a max() is a moment of worker/model/{resnet_stem,residual_block,classifier,
// image_mlp}.cc, in its order: all that the stage has allocated by then and not freed. In bytes: x
// and y, a stage's input and output, as many as their gradients have; m, the output of a block's
// first convolution, of which a worker may hold some channels; w1, w2, wp, the weights of the
// convolutions and of the projection.
namespace sdp {
namespace {

constexpr int64_t kF32 = 4;
constexpr int64_t kIndex = 2;  // of a maximum: 64 bits for each 32 of its output

// Elements of one tensor, or of several.
struct Elements {
  int64_t computed = 0, trained = 0;
  Elements operator+(const Elements& other) const {
    return {computed + other.computed, trained + other.trained};
  }
};

// A convolution's weights, and their copies while it computes.
struct Conv {
  int64_t bytes = 0;
  int64_t trained = 0;  // of these, that have gradients
  bool one_by_one = false;

  // Channels last, and then in the order of the kernel. Of 1 x 1 the first is as it was.
  int64_t Forward() const { return one_by_one ? bytes : 2 * bytes; }
  // Channels last; the gradient, and it in the kernel's order twice.
  int64_t OfWeight() const { return (one_by_one ? 3 : 4) * trained; }
  // With `dx`, its input's gradient. Of a weight that is trained in part the gradient is made by
  // itself and first, from a copy of those of `inner`'s channels.
  int64_t Backward(int64_t dx, int64_t inner) const {
    if (trained == bytes) return dx + OfWeight();
    const double share = static_cast<double>(trained) / static_cast<double>(bytes);
    const auto copied = static_cast<int64_t>(share * static_cast<double>(inner));
    return std::max(copied + OfWeight(), trained + dx + Forward());
  }
};

// A ResNet's stages, front to back.
class ResnetStages {
 public:
  ResnetStages(const ResnetSpec& spec, int64_t samples, const HeldTensors& held,
               const ElementSizes& bytes)
      : spec_(spec),
        post_(spec.order == ResnetSpec::Order::kPost),
        samples_(samples),
        held_(held),
        bytes_(bytes) {}

  std::vector<StageMemory> All() {
    AddStem();
    int64_t channels = spec_.widths.front();
    for (size_t level = 0; level < spec_.widths.size(); ++level) {
      for (int64_t index = 0; index < spec_.depths[level]; ++index) {
        AddBlock(channels, level, /*projected=*/level > 0 && index == 0);
        channels = spec_.widths[level];
      }
    }
    AddHead();
    return std::move(stages_);
  }

 private:
  // A block: activations, weights, and whether there are some.
  struct Block {
    int64_t x = 0, y = 0, m = 0;
    Conv first, second, projection;
    bool branch = false, projected = false;
  };

  int64_t Activation(int64_t channels, int64_t size) const {
    return samples_ * channels * size * size * bytes_.activation;
  }
  // Of the catalog's next tensors.
  Elements Next(size_t count = 1) {
    Elements elements;
    for (; count > 0; --count, ++next_)
      elements = elements + Elements{held_.computed[next_], held_.trained[next_]};
    return elements;
  }
  Conv NextConv(bool one_by_one = false) {
    const Elements weight = Next();
    return {weight.computed * bytes_.weight, weight.trained * bytes_.weight, one_by_one};
  }
  // The elements of a stage's tensors, from `first` on, are what its backward pass reads.
  void CountFrom(size_t first, StageMemory& m) const {
    for (size_t tensor = first; tensor < next_; ++tensor) {
      m.parameters += held_.computed[tensor];
      m.trained += held_.trained[tensor];
    }
    m.spent_backward = m.parameters;
  }
  // Of one norm, mean and 1 / std.
  int64_t Statistics(int64_t channels) const {
    return 2 * kF32 * (spec_.norm_groups > 0 ? samples_ * spec_.norm_groups : channels);
  }
  // While a norm's gradient of so many bytes is made: BatchNorm's takes as many once more.
  int64_t NormGradient(int64_t bytes) const { return spec_.norm_groups > 0 ? bytes : 2 * bytes; }

  void AddStem() {
    const bool pooled = spec_.stem == ResnetSpec::Stem::kImagenet;
    const int64_t width = spec_.widths.front();
    const int64_t size = pooled ? (spec_.image_size - 1) / 2 + 1 : spec_.image_size;
    const int64_t image = Activation(spec_.channels, spec_.image_size);
    const int64_t a = Activation(width, size);  // the convolution's output
    const int64_t y = Activation(width, spec_.stem_size());
    const int64_t maximum = pooled ? y + kIndex * y : 0;
    StageMemory m;
    const Conv conv = NextConv();
    if (post_) Next(2);
    CountFrom(0, m);
    m.output = y;
    m.stores_input = false;
    m.input_copy = image;  // channels last
    m.stores_output = post_;
    if (post_) {
      m.stored = a + Statistics(width) + (pooled ? kIndex * y : 0);
      m.forward = image + std::max(/*convolution*/ a + conv.Forward(), /*norm*/ 2 * a + maximum);
      m.backward = std::max({/*maximum*/ pooled ? y + a : 0, /*norm*/ a + NormGradient(a),
                             /*convolution*/ a + conv.OfWeight()});
    } else {
      m.stored = pooled ? a + kIndex * y : 0;
      m.forward = image + a + std::max(conv.Forward(), maximum);
      // LibTorch's maximum lets go of what it kept before the convolution begins.
      const int64_t convolution = conv.OfWeight();
      m.backward = pooled ? std::max(a, a - m.stored + convolution) : convolution;
    }
    m.evaluate = m.forward;
    stages_.push_back(m);
  }

  void AddBlock(int64_t channels, size_t level, bool projected) {
    const int64_t size = spec_.level_size(level), width = spec_.widths[level];
    StageMemory m;
    Block b;
    b.projected = projected;
    b.x = stages_.back().output;
    b.y = m.output = Activation(width, size);
    const size_t first = next_;
    if (projected) {
      b.projection = NextConv(/*one_by_one=*/true);
      if (post_) Next(2);
    }
    if (!post_) Next(2);
    const int64_t conv1 = held_.computed[next_];
    b.first = NextConv();
    Next(2);
    b.second = NextConv();
    if (post_) Next(2);
    CountFrom(first, m);
    b.branch = conv1 > 0;
    b.m = Activation(conv1 / (9 * channels), size);
    post_ ? FillPost(b, width, m) : FillPre(b, m);
    stages_.push_back(m);
  }

  void FillPost(const Block& b, int64_t width, StageMemory& m) const {
    const int64_t x = b.x, y = b.y, mid = b.m;
    const int64_t shortcut = b.projected ? 2 * y : 0;  // as convolved, and normed
    m.stores_output = true;
    m.stored =
        (b.branch ? mid + y + Statistics(width) : 0) + (b.projected ? y + Statistics(width) : 0);
    m.evaluate = m.forward = std::max({
        /*projection*/ b.projected ? y + std::max(y, b.projection.Forward()) : 0,
        /*first convolution*/ b.branch ? shortcut + mid + b.first.Forward() : 0,
        /*second*/ b.branch ? shortcut + 2 * mid + y + b.second.Forward() : 0,
        /*norm*/ b.branch ? shortcut + mid + 2 * y : y,
    });
    const int64_t w1 = b.first.trained, w2 = b.second.trained;
    const int64_t branch = std::max({
        /*last norm*/ 2 * y + NormGradient(y),
        /*second convolution*/ 2 * y + mid + b.second.Backward(mid, mid),
        /*first norm*/ y + w2 + mid + NormGradient(mid),
        /*first convolution*/ y + mid + w2 + b.first.Backward(x, mid),
    });
    const int64_t dx = b.branch ? x + w1 + w2 : 0;
    const int64_t projection =
        y + dx + std::max(NormGradient(y), y + b.projection.Backward(x, /*inner=*/0));
    m.backward = std::max({/*ReLU*/ y, b.branch ? branch : 0, b.projected ? projection : 0});
  }

  void FillPre(const Block& b, StageMemory& m) const {
    const int64_t x = b.x, y = b.y, mid = b.m;
    const int64_t shortcut = b.projected ? y : 0;
    m.stored = mid;
    m.evaluate = m.forward = std::max({
        /*projection*/ b.projected ? y + b.projection.Forward() : 0,
        /*first convolution*/ b.branch ? shortcut + x + mid + b.first.Forward() : 0,
        /*second*/ b.branch ? shortcut + 2 * mid + y + b.second.Forward() : 0,
    });
    const int64_t w1 = b.first.trained, w2 = b.second.trained;
    const int64_t branch = std::max({
        /*second convolution*/ y + mid + b.second.Backward(mid, mid),
        /*second norm*/ mid + NormGradient(mid) + w2,
        /*first convolution*/ mid + x + w2 + b.first.Backward(x, mid),
        /*first norm*/ x + NormGradient(x) + w1 + w2,
    });
    const int64_t dx = b.branch ? x + w1 + w2 : 0;
    const int64_t projection = dx + b.projection.Backward(x, /*inner=*/0);
    m.backward = std::max(b.branch ? branch : 0, b.projected ? projection : 0);
  }

  void AddHead() {
    const int64_t x = stages_.back().output;
    const int64_t pooled = samples_ * spec_.widths.back() * bytes_.activation;
    const int64_t logits = samples_ * (spec_.classes + 1) * kF32;  // and losses
    StageMemory m;
    m.trained = m.parameters = Next(post_ ? 2 : 4).computed;
    (post_ ? m.spent_forward : m.spent_backward) = m.parameters;
    m.stores_input = !post_;
    m.early_gradients = m.parameters * bytes_.gradient;  // The norm's follow at once.
    m.stored = m.early_gradients + pooled;
    m.evaluate = (post_ ? 0 : x) + pooled + logits;
    m.forward = std::max(m.evaluate, m.stored + pooled + logits);
    // The gradient of the mean, then through ReLU and norm.
    m.backward = post_ ? x : 2 * x + std::max(x, NormGradient(x));
    stages_.push_back(m);
  }

  const ResnetSpec& spec_;
  const bool post_;
  const int64_t samples_;
  const HeldTensors& held_;
  const ElementSizes& bytes_;
  size_t next_ = 0;  // tensor
  std::vector<StageMemory> stages_;
};

// Of an MLP, with so many of its neurons, and of its last bias.
StageMemory ImageMlpLayer(const ImageMlpSpec& spec, const Elements& neurons, const Elements& bias,
                          int64_t samples, const ElementSizes& sizes) {
  const int64_t y = samples * spec.dim * sizes.activation;
  const int64_t hidden = samples * neurons.computed * sizes.activation;
  const int64_t first = (spec.dim + 1) * neurons.trained * sizes.gradient;
  const int64_t second = (neurons.trained * spec.dim + bias.trained) * sizes.gradient;
  const int64_t copied =  // of neurons that are trained beside others that are not
      neurons.trained < neurons.computed ? samples * neurons.trained * sizes.activation : 0;
  StageMemory m;
  m.parameters = m.spent_backward = (2 * spec.dim + 1) * neurons.computed + bias.computed;
  m.trained = (2 * spec.dim + 1) * neurons.trained + bias.trained;
  m.output = y;
  m.stores_input = neurons.trained > 0;
  m.stored = hidden;
  m.forward = m.evaluate = neurons.computed > 0 ? hidden + 2 * y : y;
  m.backward = second;
  if (neurons.computed == 0) return m;
  m.backward += std::max(/*ReLU*/ 2 * hidden, /*first map*/ hidden + y + copied + first);
  return m;
}

}  // namespace

std::vector<StageMemory> ResnetMemory(const ResnetSpec& spec, int64_t samples,
                                      const HeldTensors& held, const ElementSizes& sizes) {
  return ResnetStages(spec, samples, held, sizes).All();
}

std::vector<StageMemory> ImageMlpMemory(const ImageMlpSpec& spec, int64_t samples,
                                        const HeldTensors& held, const ElementSizes& sizes) {
  const int64_t y = samples * spec.dim * sizes.activation;
  StageMemory stem;
  stem.trained = stem.parameters = stem.spent_forward = (spec.inputs + 1) * spec.dim;
  stem.output = stem.forward = stem.evaluate = y;
  stem.stores_input = false;  // the batch stays as it is
  stem.backward = stem.parameters * sizes.gradient;
  std::vector<StageMemory> stages = {stem};
  for (int64_t layer = 0; layer < spec.layers; ++layer) {
    const auto first = static_cast<size_t>(2 + 4 * layer);  // weight, bias, weight, bias
    stages.push_back(ImageMlpLayer(spec, {held.computed[first + 1], held.trained[first + 1]},
                                   {held.computed[first + 3], held.trained[first + 3]}, samples,
                                   sizes));
  }
  StageMemory head;
  head.trained = head.parameters = head.spent_forward = (spec.dim + 1) * spec.classes;
  head.stores_input = false;  // its gradient takes its place
  head.early_gradients = head.parameters * sizes.gradient;
  head.stored = y + head.early_gradients;
  head.evaluate = samples * (spec.classes + 1) * kF32;
  head.forward = head.stored + head.evaluate;
  stages.push_back(head);
  return stages;
}

}  // namespace sdp

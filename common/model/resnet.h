#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/model/catalog.h"
#include "common/model/neuron_units.h"

namespace sdp {

// Sizes of a residual network of BasicBlocks (two 3x3 convolutions) with GroupNorm or BatchNorm. A
// *level* is the blocks of one width and resolution, torchvision's layer1, layer2, ...; all but the
// first begin by halving the resolution.
struct ResnetSpec {
  enum class Stem {
    kCifar,     // 3x3 convolution: images of 32 x 32
    kImagenet,  // 7x7 convolution with stride 2, then 3x3 maximum with stride 2
  };
  enum class Order {
    kPost,  // relu(x + norm(conv(relu(norm(conv(x))))))
    kPre,   // x + conv(relu(norm(conv(relu(norm(x))))))
  };
  std::vector<int64_t> widths;  // [levels] channels
  std::vector<int64_t> depths;  // [levels] blocks
  Stem stem = Stem::kCifar;
  Order order = Order::kPost;
  int64_t norm_groups = 1;  // divides every width; 0: BatchNorm
  double norm_eps = 1e-5;
  int64_t channels = 3;
  int64_t image_size = 32;  // height and width
  int64_t classes = 10;

  // Height and width after the stem, and of a level's outputs.
  int64_t stem_size() const;
  int64_t level_size(size_t level) const;
};

// The stages are "stem", then the blocks "layer1.0", ..., then "head" (mean over positions,
// projection, loss; with kPre its norm and ReLU before). A block's unit is its branch alone: where
// a block changes width and resolution, the shortcut's projection is a shared unit
// "layer2.0.downsample", so that a worker without the branch still has a path. With kPost that
// projection is normed; with kPre it is a convolution of the block's input and nothing else, as it
// must not depend on the branch's first norm. Tensors as torchvision names them; the last norm of
// kPre, which torchvision does not have, is "bn.weight" and "bn.bias". Precondition: a spec that
// the config reader accepts.
Catalog ResnetCatalog(const ResnetSpec& spec);

// Neuron granularity: the same stages and tensors. Units of a block are parts of its inner
// channels, "layer1.0.0" .. "layer1.0.G-1" of kind "block": rows of conv1, the norm between the
// convolutions, and columns of conv2; the residual width is never cut. The block's other norm, of
// conv2's output or with kPre of the input, is the shared unit "layer1.0.norm". So that a part's
// activations do not depend on other parts, it is whole groups of GroupNorm, whose numbers differ
// by at most one; with BatchNorm channels. Precondition: CheckParts.
Catalog ResnetNeuronCatalog(const ResnetSpec& spec, const NeuronUnits& units);

// InvalidArgument, naming the keys - it cannot be cut into so many groups.
absl::Status CheckParts(const ResnetSpec& spec, const NeuronUnits& units);
PartsText PartsTextOf(const ResnetSpec& spec, const std::string& stage, const std::string& kind,
                      int64_t parts);

}  // namespace sdp

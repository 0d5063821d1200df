#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/model/catalog.h"
#include "common/model/neuron_units.h"
#include "common/model/transformer_unit.h"

namespace sdp {

// Sizes of a Swin Transformer (the first version): patches of an image are tokens; blocks of
// attention within windows of tokens, every second one's windows shifted by half a window, and an
// MLP. A *level* is the blocks of one width and resolution; all but the first begin by merging 2 x
// 2 tokens into one of twice the width.
struct SwinSpec {
  int64_t dim = 0;              // d of the first level
  std::vector<int64_t> depths;  // [levels] blocks
  std::vector<int64_t> heads;   // [levels] each divides the level's width
  int64_t window = 0;           // height and width in tokens; divides every level's size
  int64_t patch = 0;            // height and width in pixels; divides image_size
  int64_t mlp_ratio = 4;        // hidden neurons of a block / its width
  double norm_eps = 1e-5;
  int64_t channels = 3;
  int64_t image_size = 224;  // height and width
  int64_t classes = 1000;

  int64_t width(size_t level) const { return dim << level; }
  // Tokens of a row and of a column, and all of them.
  int64_t size(size_t level) const { return image_size / patch >> level; }
  int64_t tokens(size_t level) const { return size(level) * size(level); }
  int64_t hidden(size_t level) const { return mlp_ratio * width(level); }
  // By how many tokens a block's windows are shifted: by none where one window is all.
  int64_t shift(size_t level, int64_t block) const {
    return block % 2 == 0 || window >= size(level) ? 0 : window / 2;
  }
};

// The stages are "embed" (patches, norm), per block "level1.0.attention" and "level1.0.mlp", after
// each level but the last "merge1", then "head" (norm, mean over tokens, projection, loss). Units
// of the same names, of which the blocks' are masked; with kLayer both stages of a block read the
// one unit "level1.0". Tensors as torchvision names them: its features.1 is level1, features.2
// merge1. Precondition: a spec that the config reader accepts.
Catalog SwinCatalog(const SwinSpec& spec, TransformerUnit unit);

// The same stages and tensors. Units of a stage "level1.0.mlp": the shared "level1.0.mlp.shared",
// which has what every part needs, the norm and the bias of what goes out; then "level1.0.mlp.0" ..
// of kind "mlp"; "level1.0.attention" likewise with a unit per head, which has its column of the
// table of relative positions and three ranges of rows of qkv. The residual width is never cut.
// Precondition: CheckParts.
Catalog SwinNeuronCatalog(const SwinSpec& spec, const NeuronUnits& units);

// InvalidArgument, naming the keys - it cannot be cut into so many groups.
absl::Status CheckParts(const SwinSpec& spec, const NeuronUnits& units);
PartsText PartsTextOf(const SwinSpec& spec, const std::string& stage, const std::string& kind,
                      int64_t parts);

}  // namespace sdp

#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/model/catalog.h"

// Image models as the planner sees them: what their residual branches cost, written down from the
// formulas of the method's description. Units of unequal cost, unlike a transformer's. No tensors.
namespace sdp::testing {

inline void AddCosts(Catalog& catalog, std::string name, std::string kind, int layer,
                     int64_t params, int64_t macs, int64_t activations) {
  UnitSpec unit;
  unit.name = std::move(name);
  unit.kind = std::move(kind);
  unit.shared = layer < 0;
  unit.layer = layer;
  unit.params = params;
  unit.macs = macs;
  unit.activation_elements = activations;
  catalog.units.push_back(std::move(unit));
}

// ResNet-18 for images of 32 x 32: the residual branch of each of 8 BasicBlocks is a unit; stem,
// projection shortcuts and classifier are shared.
inline Catalog ResNet18Costs() {
  Catalog catalog;
  int64_t in = 64, size = 32;
  AddCosts(catalog, "stem", "stem", -1, 27 * 64 + 2 * 64, 27 * 64 * 32 * 32, 64 * 32 * 32);
  int layer = 0;
  for (int64_t width = 64; width <= 512; width *= 2) {
    for (int block = 0; block < 2; ++block) {
      const int64_t before = in * size * size;
      if (width != in) size /= 2;
      const int64_t area = size * size;
      const std::string name = absl::StrCat("layer", width, ".", block);
      AddCosts(catalog, name, "block", layer++, 9 * in * width + 9 * width * width + 4 * width,
               (9 * in * width + 9 * width * width) * area, before + 4 * width * area);
      if (width != in) {
        AddCosts(catalog, name + ".shortcut", "shortcut", -1, in * width + 2 * width,
                 in * width * area, 0);
      }
      in = width;
    }
  }
  AddCosts(catalog, "fc", "fc", -1, 512 * 10 + 10, 512 * 10, 512);
  return catalog;
}

// Swin-T for images of 224 x 224: attention and MLP of 2, 2, 6, 2 blocks are units; patch
// embedding, merging and head are shared.
inline Catalog SwinTCosts() {
  Catalog catalog;
  const int64_t window = 7;
  int64_t width = 96, tokens = 56 * 56, heads = 3;
  AddCosts(catalog, "embed", "embed", -1, 48 * width + 3 * width, 48 * width * tokens, 0);
  int layer = 0;
  for (const int blocks : {2, 2, 6, 2}) {
    for (int block = 0; block < blocks; ++block, ++layer) {
      const std::string name = absl::StrCat("stage", width, ".", block);
      AddCosts(
          catalog, name + ".attention", "attention", layer,
          4 * width * width + 4 * width + heads * (2 * window - 1) * (2 * window - 1) + 2 * width,
          4 * tokens * width * width + 2 * tokens * window * window * width, 6 * tokens * width);
      AddCosts(catalog, name + ".mlp", "mlp", layer, 8 * width * width + 5 * width + 2 * width,
               8 * tokens * width * width, 10 * tokens * width);
    }
    if (width == 768) break;
    tokens /= 4;
    AddCosts(catalog, absl::StrCat("merge", width), "merge", -1, 8 * width * width + 8 * width,
             8 * width * width * tokens, 0);
    width *= 2;
    heads *= 2;
  }
  AddCosts(catalog, "head", "head", -1, 2 * width + width * 1000 + 1000, width * 1000, width);
  return catalog;
}

}  // namespace sdp::testing

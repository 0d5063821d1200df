#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/model/catalog.h"

// An image model's costs written down from the formulas of the method's description, for
// comparison with its catalog. No tensors, no activations.
namespace sdp::testing {

inline void AddCosts(Catalog& catalog, std::string name, std::string kind, int layer,
                     int64_t params, int64_t macs) {
  UnitSpec unit;
  unit.name = std::move(name);
  unit.kind = std::move(kind);
  unit.shared = layer < 0;
  unit.layer = layer;
  unit.params = params;
  unit.macs = macs;
  catalog.units.push_back(std::move(unit));
}

// Swin-T for images of 224 x 224: attention and MLP of 2, 2, 6, 2 blocks are units; patch
// embedding, merging and head are shared.
inline Catalog SwinTCosts() {
  Catalog catalog;
  const int64_t window = 7;
  int64_t width = 96, tokens = 56 * 56, heads = 3;
  AddCosts(catalog, "embed", "embed", -1, 48 * width + 3 * width, 48 * width * tokens);
  int layer = 0;
  for (const int blocks : {2, 2, 6, 2}) {
    for (int block = 0; block < blocks; ++block, ++layer) {
      const std::string name = absl::StrCat("stage", width, ".", block);
      AddCosts(
          catalog, name + ".attention", "attention", layer,
          4 * width * width + 4 * width + heads * (2 * window - 1) * (2 * window - 1) + 2 * width,
          4 * tokens * width * width + 2 * tokens * window * window * width);
      AddCosts(catalog, name + ".mlp", "mlp", layer, 8 * width * width + 5 * width + 2 * width,
               8 * tokens * width * width);
    }
    if (width == 768) break;
    tokens /= 4;
    AddCosts(catalog, absl::StrCat("merge", width), "merge", -1, 8 * width * width + 8 * width,
             8 * width * width * tokens);
    width *= 2;
    heads *= 2;
  }
  AddCosts(catalog, "head", "head", -1, 2 * width + width * 1000 + 1000, width * 1000);
  return catalog;
}

}  // namespace sdp::testing

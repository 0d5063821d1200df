#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/model/catalog.h"

namespace sdp {

// What activations are like where BatchNorm is, in the full model: means and (unbiased) variances
// by the names that torchvision gives them, each [channels]. They are no parameters: whoever
// evaluates the model learns them of training images.
using NormValues = std::map<std::string, std::vector<float>>;

struct NormSpec {
  std::string name;  // "layer1.0.bn1"
  int64_t channels = 0;

  std::string mean() const { return name + ".running_mean"; }
  std::string variance() const { return name + ".running_var"; }
};

// The norms of a stage, in the order in which it computes them, which is the catalog's.
std::vector<NormSpec> NormsOf(const Catalog& catalog, const StageSpec& stage);

}  // namespace sdp

// The sizes behind each model.preset. Threads: constant data.   Errors: none.
#pragma once

#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace sdp::config {

// What is not here is the default of every model of its architecture.
struct Preset {
  absl::string_view name;
  absl::string_view arch;
  // Keys of [model], and their values as TOML.
  std::vector<std::pair<absl::string_view, absl::string_view>> sizes;
};

// 134m is the GaLore-style LLaMA with 134.1M parameters; 500m and 1b have 558M and 1339M.
// resnet-cifar is He's ResNet-20; swin-t is for images of 224 x 224, swin-cifar has about
// resnet-cifar's multiply-accumulates.
// clang-format off
inline std::vector<Preset> Presets() {
  return {
      {"llama-tiny", "llama", {{"dim", "128"}, {"layers", "4"}, {"heads", "4"}, {"kv_heads", "2"}, {"ffn_dim", "344"}, {"vocab", "256"}}},
      {"llama-134m", "llama", {{"dim", "768"}, {"layers", "12"}, {"heads", "12"}, {"ffn_dim", "2048"}, {"vocab", "32000"}}},
      {"llama-500m", "llama", {{"dim", "1280"}, {"layers", "24"}, {"heads", "20"}, {"ffn_dim", "3456"}, {"vocab", "32000"}}},
      {"llama-1b", "llama", {{"dim", "2048"}, {"layers", "24"}, {"heads", "32"}, {"ffn_dim", "5461"}, {"vocab", "32000"}}},
      {"resnet18", "resnet", {{"widths", "[64, 128, 256, 512]"}, {"depths", "[2, 2, 2, 2]"}, {"norm_groups", "32"}}},
      {"resnet-cifar", "resnet", {{"widths", "[16, 32, 64]"}, {"depths", "[3, 3, 3]"}, {"norm_groups", "8"}}},
      {"swin-t", "swin", {{"dim", "96"}, {"depths", "[2, 2, 6, 2]"}, {"level_heads", "[3, 6, 12, 24]"}, {"window", "7"}, {"patch", "4"}, {"classes", "1000"}}},
      {"swin-cifar", "swin", {{"dim", "48"}, {"depths", "[2, 2, 2]"}, {"level_heads", "[4, 8, 16]"}, {"window", "4"}, {"patch", "2"}}},
  };
}
// clang-format on

}  // namespace sdp::config

// The sizes behind each model.preset. Threads: constant data.   Errors: none.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"

namespace sdp::config {

// LLaMA shapes; what is not here (rope_theta, norm_eps, untied head) is the default of every model.
struct Preset {
  absl::string_view name;
  int64_t dim;
  int64_t layers;
  int64_t heads;
  int64_t kv_heads;  // 0: as many as heads, also where the user overrides heads.
  int64_t ffn_dim;
  int64_t vocab;
};

// 134m is the GaLore-style LLaMA with 134.1M parameters; 500m and 1b have 558M and 1339M.
// clang-format off
inline constexpr Preset kPresets[] = {
    //             dim layers heads kv_heads   ffn  vocab
    {"llama-tiny",  128,    4,    4,       2,  344,   256},
    {"llama-134m",  768,   12,   12,       0, 2048, 32000},
    {"llama-500m", 1280,   24,   20,       0, 3456, 32000},
    {"llama-1b",   2048,   24,   32,       0, 5461, 32000},
};
// clang-format on

}  // namespace sdp::config

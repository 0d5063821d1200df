// Rules that concern several keys at once, for a config whose single values are all allowed and
// resolved. Threads: a pure function.   Errors: returned as text, one line each, naming the keys,
// their values and origins.
#pragma once

#include <string>
#include <vector>

#include "common/config/config.h"

namespace sdp::config {

std::vector<std::string> CheckTogether(const LoadedConfig& loaded);

// "train.steps = 100 (run.toml:7)": how messages name a value.
std::string Shown(const LoadedConfig& loaded, const std::string& key);

}  // namespace sdp::config

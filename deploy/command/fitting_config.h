#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/config/config.h"

namespace sdp {

// A configuration in which sdp.coverage = "auto" has become numbers.
struct FittingConfig {
  LoadedConfig loaded;
  std::vector<std::string> sets;  // the given ones, and those numbers: for the run's processes
  std::string weighed;            // the options, as text for people; "" without "auto"
};

// Errors: LoadConfig's, and FitMemory's where nothing fits (common/run/fit_memory.h).
absl::StatusOr<FittingConfig> LoadFittingConfig(const std::string& path,
                                                std::vector<std::string> sets);

}  // namespace sdp

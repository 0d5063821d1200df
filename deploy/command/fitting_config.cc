#include "deploy/command/fitting_config.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/run/fit_memory.h"

namespace sdp {

absl::StatusOr<FittingConfig> LoadFittingConfig(const std::string& path,
                                                std::vector<std::string> sets) {
  FittingConfig config;
  SDP_ASSIGN_OR_RETURN(config.loaded, LoadConfig(path, sets));
  const RunConfig& given = config.loaded.config;
  if (given.sdp().has_coverage() && given.sdp().coverage() == 0) {
    SDP_ASSIGN_OR_RETURN(const std::vector<MemoryOption> options, FitMemory(given));
    config.weighed =
        absl::StrCat("sdp.coverage = \"auto\" with worker.memory = ", given.worker().memory(),
                     ":\n", MemoryOptionsText(options), "\n");
    for (std::string& setting : SettingsOf(options.back())) sets.push_back(std::move(setting));
    SDP_ASSIGN_OR_RETURN(config.loaded, LoadConfig(path, sets));
  }
  config.sets = std::move(sets);
  return config;
}

}  // namespace sdp

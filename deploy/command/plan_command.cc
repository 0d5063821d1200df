#include "deploy/command/plan_command.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/config/config.h"
#include "common/plan/plan.h"
#include "common/plan/report.h"
#include "common/run/run_setup.h"

namespace sdp {

absl::Status RunPlanCommand(const PlanCommand& command, std::ostream& out, std::ostream& warnings) {
  std::vector<std::string> sets = command.sets;
  if (command.workers.has_value()) {
    sets.push_back(absl::StrCat("cluster.workers=", *command.workers));
  }
  SDP_ASSIGN_OR_RETURN(const LoadedConfig loaded, LoadConfig(command.config_path, sets));
  SDP_ASSIGN_OR_RETURN(const RunSetup setup, MakeRunSetup(loaded.config));
  SDP_ASSIGN_OR_RETURN(std::vector<Rank> ranks, RanksFrom(setup.config));
  SDP_ASSIGN_OR_RETURN(const PlanInput input,
                       PlanInputFrom(setup, std::move(ranks), /*rotation=*/0));
  SDP_ASSIGN_OR_RETURN(const Plan plan, MakePlan(input));

  const PlanReport report =
      MakePlanReport(input, plan, ElementBytesFrom(setup.precision), MemoryModelFrom(setup));
  for (const std::string& warning : report.warnings) warnings << "warning: " << warning << "\n";
  out << (command.format == PlanCommand::Format::kJson ? PlanJson(report) : PlanText(report));
  return absl::OkStatus();
}

}  // namespace sdp

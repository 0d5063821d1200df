#include "deploy/command/plan_command.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/config/config.h"
#include "common/plan/plan.h"
#include "common/plan/report.h"
#include "common/run/dense_rivals.h"
#include "common/run/run_setup.h"
#include "deploy/command/bandwidth.h"
#include "deploy/command/fitting_config.h"

namespace sdp {
namespace {

// A row for each phase that the run gets to, if it is not the only one.
absl::Status AddPhases(const RunSetup& setup, PlanReport* report) {
  std::vector<PlanReport::Phase> phases = {PhaseOf(*report, 0)};
  for (const CoveragePhase& phase : setup.phases) {
    if (phase.from == 0 || phase.from >= setup.config.train().steps()) continue;
    SDP_ASSIGN_OR_RETURN(const PlanReport later, ReportOf(setup, phase.from));
    phases.push_back(PhaseOf(later, phase.from));
  }
  if (phases.size() > 1) report->phases = std::move(phases);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PlanReport> ReportOf(const RunSetup& setup, Step step) {
  SDP_ASSIGN_OR_RETURN(std::vector<Rank> ranks, RanksFrom(setup.config));
  SDP_ASSIGN_OR_RETURN(const PlanInput input,
                       PlanInputFrom(setup, std::move(ranks), RotationAt(setup.config.sdp(), step),
                                     PhaseAt(setup.phases, step)));
  SDP_ASSIGN_OR_RETURN(const Plan plan, MakePlan(input));
  return MakePlanReport(input, plan, ElementBytesFrom(setup.precision), MemoryModelFrom(setup));
}

absl::Status RunPlanCommand(const PlanCommand& command, std::ostream& out, std::ostream& warnings) {
  std::vector<std::string> sets = command.sets;
  if (command.workers.has_value()) {
    sets.push_back(absl::StrCat("cluster.workers=", *command.workers));
  }
  double bandwidth = 0;
  if (!command.bandwidth.empty()) {
    SDP_ASSIGN_OR_RETURN(bandwidth, ParseBandwidth(command.bandwidth));
  }
  if (!command.memory.empty()) sets.push_back(absl::StrCat("worker.memory=", command.memory));
  SDP_ASSIGN_OR_RETURN(const FittingConfig config,
                       LoadFittingConfig(command.config_path, std::move(sets)));
  SDP_ASSIGN_OR_RETURN(const RunSetup setup, MakeRunSetup(config.loaded.config));
  SDP_ASSIGN_OR_RETURN(PlanReport report, ReportOf(setup, /*step=*/0));
  SDP_RETURN_IF_ERROR(AddPhases(setup, &report));
  report.bandwidth = bandwidth;
  SDP_ASSIGN_OR_RETURN(report.rivals, DenseRivals(setup, report));
  for (const std::string& warning : report.warnings) warnings << "warning: " << warning << "\n";
  if (command.format == PlanCommand::Format::kJson) {
    out << PlanJson(report);
  } else {
    out << config.weighed << PlanText(report);
  }
  return absl::OkStatus();
}

}  // namespace sdp

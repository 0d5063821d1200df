#include "common/run/fit_memory.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status.h"
#include "common/config/config.h"
#include "common/plan/plan.h"
#include "common/plan/report.h"
#include "common/run/run_setup.h"

namespace sdp {
namespace {

constexpr int64_t kCoverageSteps = 8;

std::string MiB(int64_t bytes) { return absl::StrFormat("%.1f MiB", std::ldexp(bytes, -20)); }

// Shares of the workers, from all of them down.
std::vector<double> Coverages(int64_t workers) {
  std::vector<double> coverages;
  for (int64_t eighths = kCoverageSteps; eighths > 0; --eighths) {
    const int64_t holders = workers * eighths / kCoverageSteps;
    const double share = static_cast<double>(holders) / static_cast<double>(workers);
    if (holders > 0 && (coverages.empty() || share < coverages.back())) coverages.push_back(share);
  }
  return coverages;
}

// From what is given, or a worker's whole portion, down to one. BatchNorm needs two images.
std::vector<int64_t> MicroBatches(const RunConfig& config) {
  const int64_t workers = config.cluster().workers();
  const int64_t fixed = config.train().worker_batch();
  const int64_t portion =
      fixed > 0 ? fixed : (config.train().global_batch() + workers - 1) / workers;
  const int64_t given = config.train().micro_batch();
  const bool norms = config.model().norm() == "batch";
  std::vector<int64_t> sizes;
  for (int64_t size = given > 0 ? std::min(given, portion) : portion;; size = (size + 1) / 2) {
    const auto leaves_one = [&](int64_t samples) { return samples > 0 && samples % size == 1; };
    const bool alone = size == 1 || leaves_one(portion) || leaves_one(portion - 1);
    if (!norms || !alone) sizes.push_back(size);
    if (size == 1) break;
  }
  return sizes;
}

// What the busiest worker of a plan has.
MemoryOption Weigh(const RunConfig& config, const std::vector<PlanReport::Worker>& workers) {
  MemoryOption option;
  option.coverage = config.sdp().coverage();
  option.micro_batch = config.train().micro_batch();
  option.recompute = config.train().recompute();
  option.flops_share = 0;
  for (const PlanReport::Worker& worker : workers) {
    if (worker.memory_bytes > option.memory_bytes) {
      option.memory_bytes = worker.memory_bytes;
      option.when = worker.memory_when;
    }
    option.flops_share = std::max(option.flops_share, worker.flops_share);
    option.wire_bytes = std::max(option.wire_bytes, worker.pull_bytes + worker.push_bytes);
  }
  return option;
}

absl::StatusOr<MemoryOption> OptionOf(const RunConfig& config, const Plan& plan) {
  SDP_ASSIGN_OR_RETURN(const RunSetup setup, MakeRunSetup(config));
  SDP_ASSIGN_OR_RETURN(std::vector<Rank> ranks, RanksFrom(config));
  SDP_ASSIGN_OR_RETURN(const PlanInput input, PlanInputFrom(setup, std::move(ranks), 0));
  return Weigh(config, ReportWorkers(input, plan, ElementBytesFrom(setup.precision),
                                     MemoryModelFrom(setup)));
}

absl::StatusOr<Plan> PlanOf(const RunConfig& config) {
  SDP_ASSIGN_OR_RETURN(const RunSetup setup, MakeRunSetup(config));
  SDP_ASSIGN_OR_RETURN(std::vector<Rank> ranks, RanksFrom(config));
  SDP_ASSIGN_OR_RETURN(const PlanInput input, PlanInputFrom(setup, std::move(ranks), 0));
  return MakePlan(input);
}

absl::Status NothingFits(const std::vector<MemoryOption>& options, int64_t limit) {
  const auto least = std::min_element(
      options.begin(), options.end(),
      [](const auto& a, const auto& b) { return a.memory_bytes < b.memory_bytes; });
  return absl::InvalidArgumentError(
      absl::StrCat("sdp.coverage = \"auto\": nothing fits worker.memory = ", MiB(limit),
                   "; the least is ", MiB(least->memory_bytes), " (", least->when,
                   "): raise worker.memory or cluster.workers\n", MemoryOptionsText(options)));
}

}  // namespace

absl::StatusOr<std::vector<MemoryOption>> FitMemory(const RunConfig& config) {
  if (!config.sdp().has_coverage() || config.sdp().coverage() != 0) {
    return absl::InvalidArgumentError("sdp.coverage is not \"auto\"");
  }
  SDP_ASSIGN_OR_RETURN(const int64_t limit, ParseBytes(config.worker().memory()));
  std::vector<MemoryOption> options;
  for (const double coverage : Coverages(config.cluster().workers())) {
    RunConfig tried = config;
    tried.mutable_sdp()->set_coverage(coverage);
    absl::StatusOr<Plan> plan = PlanOf(tried);
    // Coverage 1 always has a plan. A lower one may have none, as where heads are fewer than N / p.
    if (!plan.ok() && !options.empty()) break;
    SDP_RETURN_IF_ERROR(plan.status());
    for (const bool recompute : {false, true}) {
      if (config.train().recompute() && !recompute) continue;
      tried.mutable_train()->set_recompute(recompute);
      for (const int64_t micro : MicroBatches(config)) {
        tried.mutable_train()->set_micro_batch(micro);
        SDP_ASSIGN_OR_RETURN(options.emplace_back(), OptionOf(tried, *plan));
        if (options.back().memory_bytes <= limit) return options;
        options.back().refused =
            absl::StrCat(MiB(options.back().memory_bytes - limit), " too much");
      }
    }
  }
  return NothingFits(options, limit);
}

std::string MemoryOptionsText(const std::vector<MemoryOption>& options) {
  std::string text =
      "coverage  micro-batch  recompute       memory   FLOPs  bytes/step   (of the worker with "
      "most)\n";
  for (const MemoryOption& option : options) {
    absl::StrAppendFormat(
        &text, "%8.4g  %11d  %9s  %11s  %5.1f%%  %10s   %s\n", option.coverage, option.micro_batch,
        option.recompute ? "yes" : "no", MiB(option.memory_bytes), 100 * option.flops_share,
        MiB(option.wire_bytes), option.refused.empty() ? "taken" : option.refused);
  }
  return text;
}

std::vector<std::string> SettingsOf(const MemoryOption& option) {
  return {absl::StrFormat("sdp.coverage=%.17g", option.coverage),
          absl::StrCat("train.micro_batch=", option.micro_batch),
          absl::StrCat("train.recompute=", option.recompute ? "true" : "false")};
}

}  // namespace sdp

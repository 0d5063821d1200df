#include <algorithm>
#include <cmath>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/plan/gap.h"
#include "common/plan/report.h"

namespace sdp {
namespace {

// The picture of who holds what is left out where it would not fit on a screen.
constexpr size_t kPictureWorkers = 64;
constexpr size_t kPictureUnits = 128;

// "91.6M"
std::string Count(int64_t count) {
  static constexpr const char* kScales[] = {"", "k", "M", "G", "T", "P"};
  double value = static_cast<double>(count);
  size_t scale = 0;
  for (; value >= 999.95 && scale + 1 < std::size(kScales); ++scale) value /= 1000;
  return scale == 0 ? absl::StrCat(count) : absl::StrFormat("%.1f%s", value, kScales[scale]);
}

// "349.5 MiB"
std::string Bytes(int64_t bytes) {
  static constexpr const char* kScales[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  double value = static_cast<double>(bytes);
  size_t scale = 0;
  for (; value >= 1023.95 && scale + 1 < std::size(kScales); ++scale) value /= 1024;
  return scale == 0 ? absl::StrCat(bytes, " B") : absl::StrFormat("%.1f %s", value, kScales[scale]);
}

std::string Percent(int64_t part, int64_t whole) {
  if (whole == 0) return "-";
  return absl::StrFormat("%.1f%%", 100.0 * static_cast<double>(part) / static_cast<double>(whole));
}

std::string Gap(double gap) {
  return std::isnan(gap) ? absl::StrCat("not computed (over ", kMaxGapWorkers, " workers)")
                         : absl::StrFormat("%.3f", gap);
}

// First column to the left, the others to the right.
std::string Table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths(rows.front().size());
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string padding(widths[i] - row[i].size(), ' ');
      if (i == 0) {
        absl::StrAppend(&text, row[i], padding);
      } else {
        absl::StrAppend(&text, "  ", padding, row[i]);
      }
    }
    text += '\n';
  }
  return text;
}

const char* AssignmentName(Assignment assignment) {
  switch (assignment) {
    case Assignment::kResolvable:
      return "resolvable";
    case Assignment::kCyclic:
      return "cyclic";
    case Assignment::kRandom:
      break;
  }
  return "random";
}

// Of the units that are not shared.
struct Holders {
  size_t least = 0;
  size_t most = 0;
};

Holders HolderRange(const PlanReport& report) {
  Holders range{report.workers.size(), 0};
  for (const PlanReport::Unit& unit : report.units) {
    if (unit.shared) continue;
    range.least = std::min(range.least, unit.holders.size());
    range.most = std::max(range.most, unit.holders.size());
  }
  range.least = std::min(range.least, range.most);
  return range;
}

std::string Summary(const PlanReport& report, int64_t params) {
  int64_t shared = 0;
  size_t shared_units = 0;
  for (const PlanReport::Unit& unit : report.units) {
    if (!unit.shared) continue;
    ++shared_units;
    shared += unit.params;
  }
  const Holders range = HolderRange(report);
  std::string holders = absl::StrCat(range.least);
  if (range.most != range.least) absl::StrAppend(&holders, "-", range.most);

  const int workers = static_cast<int>(report.workers.size());
  std::string best;  // Known where every unit has as many holders.
  if (workers > 1 && range.least == range.most && range.least > 0) {
    best = absl::StrFormat(" (at most %.3f)", LargestGap(workers, static_cast<int>(range.least)));
  }
  return absl::StrFormat(
      "plan %s: %s, seed %d\n"
      "coverage %.4g: %d units, each on %s of %d workers; %d shared units with %s of the "
      "parameters\n"
      "spectral gap %s%s, weighted by parameters %s; connected without shared units: %s\n"
      "largest / mean over workers: MACs %.3f, parameters %.3f\n",
      report.hash, AssignmentName(report.assignment), report.seed, report.coverage,
      report.units.size() - shared_units, holders, workers, shared_units, Percent(shared, params),
      Gap(report.gap), best, Gap(report.gap_weighted),
      report.connected_without_shared ? "yes" : "no", report.mac_imbalance, report.param_imbalance);
}

std::string Loads(const PlanReport& report, const PlanReport::Worker& model) {
  std::vector<std::vector<std::string>> rows = {{"worker", "units", "parameters", "%",
                                                 "MACs/sample", "%", "activations/sample",
                                                 "pull/step", "push/step", "memory"}};
  for (const PlanReport::Worker& worker : report.workers) {
    rows.push_back({worker.id, absl::StrCat(worker.units.size()), Count(worker.params),
                    Percent(worker.params, model.params), Count(worker.macs),
                    Percent(worker.macs, model.macs), Count(worker.activation_elements),
                    Bytes(worker.pull_bytes), Bytes(worker.push_bytes),
                    worker.memory_bytes > 0 ? Bytes(worker.memory_bytes) : "-"});
  }
  rows.push_back({"full model", absl::StrCat(report.units.size()), Count(model.params), "100%",
                  Count(model.macs), "100%", "", "", "", ""});
  return Table(rows);
}

// What backward masking leaves of a step's work.
std::string Work(const PlanReport& report) {
  if (report.masking == Masking::kForward) return "";
  const auto [least, most] = std::minmax_element(
      report.workers.begin(), report.workers.end(),
      [](const auto& a, const auto& b) { return a.flops_share < b.flops_share; });
  return absl::StrFormat(
      "backward masking: each worker reads and computes the full model, without the weight "
      "gradients "
      "of what it does not hold: %.1f-%.1f%% of a step's FLOPs\n",
      100 * least->flops_share, 100 * most->flops_share);
}

// What the processes need, and when the worker with the most needs it.
std::string Memory(const PlanReport& report) {
  if (report.shards.empty()) return "";
  const auto worst = std::max_element(
      report.workers.begin(), report.workers.end(),
      [](const auto& a, const auto& b) { return a.memory_bytes < b.memory_bytes; });
  std::vector<std::string> shards;
  for (const PlanReport::Shard& shard : report.shards)
    shards.push_back(absl::StrCat(shard.id, " ", Bytes(shard.memory_bytes)));
  constexpr size_t kShown = 8;
  if (shards.size() > kShown) {
    shards.resize(kShown);
    shards.push_back("...");
  }
  return absl::StrCat("memory (tensors and buffers at their peak): ", worst->id, " needs most, ",
                      Bytes(worst->memory_bytes), " (", worst->memory_when, "); ",
                      absl::StrJoin(shards, ", "), "\n");
}

// One row per unit, one column per worker: who holds what.
std::string Picture(const PlanReport& report) {
  std::vector<std::vector<std::string>> rows = {{"unit", "parameters", "MACs/sample", "holders"}};
  for (const PlanReport::Unit& unit : report.units) {
    std::string held;
    if (unit.shared) {
      held = "shared";
      if (held.size() < report.workers.size()) held.resize(report.workers.size(), ' ');
    } else {
      size_t next = 0;  // Holders come in rank order.
      for (const PlanReport::Worker& worker : report.workers) {
        const bool holds = next < unit.holders.size() && unit.holders[next] == worker.id;
        held += holds ? '#' : '.';
        if (holds) ++next;
      }
    }
    rows.push_back({unit.name, Count(unit.params), Count(unit.macs), held});
  }
  return Table(rows);
}

}  // namespace

std::string PlanText(const PlanReport& report) {
  PlanReport::Worker model;
  for (const PlanReport::Unit& unit : report.units) {
    model.params += unit.params;
    model.macs += unit.macs;
  }
  std::string text = absl::StrCat(Summary(report, model.params), "\n", Loads(report, model),
                                  Work(report), Memory(report));
  if (report.workers.size() <= kPictureWorkers && report.units.size() <= kPictureUnits) {
    absl::StrAppend(&text, "\n", Picture(report));
  }
  return text;
}

}  // namespace sdp

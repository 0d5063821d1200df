#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "common/plan/gap.h"
#include "common/plan/report.h"

namespace sdp {
namespace {

// The picture of who holds what shows each worker and unit up to these, and else groups of them.
constexpr size_t kPictureWorkers = 64;
constexpr size_t kPictureUnits = 128;
constexpr size_t kSmallRows = 40;

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

// "0.412 s"
std::string Seconds(int64_t bytes, double bytes_per_second) {
  return absl::StrFormat("%.3f s", static_cast<double>(bytes) / bytes_per_second);
}

std::string Gap(double gap) { return std::isnan(gap) ? "not found" : absl::StrFormat("%.3f", gap); }

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

// The least and the most of something; one number if they are the same.
template <typename Number>
struct Range {
  Number least = std::numeric_limits<Number>::max();
  Number most = 0;

  void Add(Number number) {
    least = std::min(least, number);
    most = std::max(most, number);
  }
  std::string Text() const {
    return least == most ? absl::StrCat(least) : absl::StrCat(least, "-", most);
  }
};

// Over the units that are not shared.
Range<size_t> HolderRange(const PlanReport& report) {
  Range<size_t> range;
  for (const PlanReport::Unit& unit : report.units) {
    if (!unit.shared) range.Add(unit.holders.size());
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
  const Range<size_t> range = HolderRange(report);

  const int workers = static_cast<int>(report.workers.size());
  std::string best;  // Known where every unit has as many holders.
  if (workers > 1 && range.least == range.most && range.least > 0) {
    best = absl::StrFormat(" (at most %.3f)", LargestGap(workers, static_cast<int>(range.least)));
  }
  return absl::StrFormat(
      "plan %s: %s, seed %d\n"
      "coverage %.4g: %d units, each on %s of %d workers; %d shared units with %s of the "
      "parameters\n"
      "spectral gap %s%s, weighted by parameters %s; with shared units %s and %s\n"
      "connected without shared units: %s\n"
      "largest / mean over workers: MACs %.3f, parameters %.3f, activations %.3f, memory %.3f\n",
      report.hash, AssignmentName(report.assignment), report.seed, report.coverage,
      report.units.size() - shared_units, range.Text(), workers, shared_units,
      Percent(shared, params), Gap(report.gap), best, Gap(report.gap_weighted),
      Gap(report.gap_with_shared), Gap(report.gap_weighted_with_shared),
      report.connected_without_shared ? "yes" : "no", report.mac_imbalance, report.param_imbalance,
      report.activation_imbalance, report.memory_imbalance);
}

// One row per kind of units that are not shared; where coverage differs, what it is and that the
// workers still hold as many.
std::string Kinds(const PlanReport& report) {
  struct Kind {
    int units = 0;
    Range<double> coverage;
    Range<size_t> holders;
    std::map<std::string, size_t> held;  // by worker
  };
  std::map<std::string, Kind> kinds;
  Range<double> coverage;
  for (const PlanReport::Unit& unit : report.units) {
    if (unit.shared) continue;
    Kind& kind = kinds[unit.kind];
    ++kind.units;
    kind.coverage.Add(unit.coverage);
    coverage.Add(unit.coverage);
    kind.holders.Add(unit.holders.size());
    for (const std::string& worker : unit.holders) ++kind.held[worker];
  }
  if (coverage.least >= coverage.most) return "";
  std::vector<std::vector<std::string>> rows = {
      {"kind", "units", "coverage", "workers of a unit", "units of a worker"}};
  for (const auto& [name, kind] : kinds) {
    Range<size_t> held;
    for (const PlanReport::Worker& worker : report.workers) {
      const auto found = kind.held.find(worker.id);
      held.Add(found == kind.held.end() ? 0 : found->second);
    }
    rows.push_back(
        {name, absl::StrCat(kind.units), kind.coverage.Text(), kind.holders.Text(), held.Text()});
  }
  return absl::StrCat(Table(rows), "\n");
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

// What backward masking leaves of a step's work, and what is done again.
std::string Work(const PlanReport& report) {
  if (report.masking == Masking::kForward && !report.recomputed) return "";
  const auto [least, most] = std::minmax_element(
      report.workers.begin(), report.workers.end(),
      [](const auto& a, const auto& b) { return a.flops_share < b.flops_share; });
  std::vector<std::string> reasons;
  if (report.masking == Masking::kBackward) {
    reasons.push_back(
        "backward masking: each worker reads and computes the full model, without the weight "
        "gradients of what it does not hold");
  }
  if (report.recomputed) {
    reasons.push_back(absl::StrCat("train.recompute: stages keep their input alone, and ",
                                   Count(most->recomputed_macs),
                                   " MACs/sample of the forward pass are done twice"));
  }
  return absl::StrFormat("%s: %.1f-%.1f%% of a step's FLOPs\n", absl::StrJoin(reasons, "\n"),
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

// How long the busiest links take: pulls and pushes travel at the same time.
std::string Links(const PlanReport& report) {
  if (report.bandwidth <= 0) return "";
  const auto busiest = [](const auto& members) {
    return std::max_element(members.begin(), members.end(), [](const auto& a, const auto& b) {
      return std::max(a.pull_bytes, a.push_bytes) < std::max(b.pull_bytes, b.push_bytes);
    });
  };
  const auto line = [&report](const auto& member) {
    return absl::StrCat(member.id, " pull ", Seconds(member.pull_bytes, report.bandwidth), " push ",
                        Seconds(member.push_bytes, report.bandwidth));
  };
  std::string text = absl::StrFormat("links at %.4g Gbit/s, busiest, per step: %s",
                                     report.bandwidth * 8 / 1e9, line(*busiest(report.workers)));
  if (!report.shards.empty()) absl::StrAppend(&text, "; ", line(*busiest(report.shards)));
  return text + "\n";
}

// What the busiest worker has in each phase of the run.
std::string Phases(const PlanReport& report, const PlanReport::Worker& model) {
  if (report.phases.empty()) return "";
  std::vector<std::vector<std::string>> rows = {{"phase from step", "coverage", "gap", "parameters",
                                                 "MACs/sample", "%", "pull/step", "push/step",
                                                 "memory"}};
  for (const PlanReport::Phase& phase : report.phases) {
    rows.push_back({absl::StrCat(phase.from), absl::StrFormat("%.4g", phase.coverage),
                    Gap(phase.gap), Count(phase.params), Count(phase.macs),
                    Percent(phase.macs, model.macs), Bytes(phase.pull_bytes),
                    Bytes(phase.push_bytes),
                    phase.memory_bytes > 0 ? Bytes(phase.memory_bytes) : "-"});
  }
  return absl::StrCat("\n", Table(rows));
}

// What a user should compare with before anything is concluded from this plan.
std::string Rivals(const PlanReport& report) {
  if (report.rivals.empty()) return "";
  const auto most = [&report](int64_t PlanReport::Worker::*amount) {
    int64_t largest = 0;
    for (const PlanReport::Worker& worker : report.workers)
      largest = std::max(largest, worker.*amount);
    return largest;
  };
  std::vector<std::vector<std::string>> rows = {
      {"dense model that fits too", "", "parameters", "of a worker's MACs", "of its memory"}};
  for (const PlanReport::Rival& rival : report.rivals) {
    rows.push_back({rival.name, rival.size, Count(rival.params),
                    Percent(rival.macs, most(&PlanReport::Worker::macs)),
                    rival.memory_bytes > 0
                        ? Percent(rival.memory_bytes, most(&PlanReport::Worker::memory_bytes))
                        : "-"});
  }
  return absl::StrCat("\n", Table(rows));
}

// [N] Whether each worker holds the unit.
std::vector<bool> Held(const PlanReport& report, const PlanReport::Unit& unit) {
  std::vector<bool> held;
  size_t next = 0;  // Holders come in rank order.
  for (const PlanReport::Worker& worker : report.workers) {
    held.push_back(next < unit.holders.size() && unit.holders[next] == worker.id);
    if (held.back()) ++next;
  }
  return held;
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
      for (const bool holds : Held(report, unit)) held += holds ? '#' : '.';
    }
    rows.push_back({unit.name, Count(unit.params), Count(unit.macs), held});
  }
  return Table(rows);
}

// The same where that would not fit: a character is so many units by so many workers, the denser
// the more of them are held. Shared units are left out.
std::string SmallPicture(const PlanReport& report) {
  static constexpr absl::string_view kDensity = ".:-=+*%@#";  // From none to all.
  std::vector<const PlanReport::Unit*> units;
  for (const PlanReport::Unit& unit : report.units) {
    if (!unit.shared) units.push_back(&unit);
  }
  const size_t workers = report.workers.size();
  const size_t rows = std::min(kSmallRows, units.size());
  const size_t columns = std::min(kPictureWorkers, workers);
  std::string text =
      absl::StrFormat("who holds what, from %s (none) to %s (all of these units and workers):\n",
                      kDensity.substr(0, 1), kDensity.substr(kDensity.size() - 1));
  for (size_t row = 0; row < rows; ++row) {
    const size_t begin = row * units.size() / rows, end = (row + 1) * units.size() / rows;
    std::vector<size_t> held(columns), all(columns);
    for (size_t unit = begin; unit < end; ++unit) {
      const std::vector<bool> holds = Held(report, *units[unit]);
      for (size_t worker = 0; worker < workers; ++worker) {
        const size_t column = worker * columns / workers;
        ++all[column];
        if (holds[worker]) ++held[column];
      }
    }
    for (size_t column = 0; column < columns; ++column)
      text += kDensity[held[column] * (kDensity.size() - 1) / all[column]];
    absl::StrAppend(&text, "  ", units[begin]->name, "\n");
  }
  return text;
}

}  // namespace

std::string PlanText(const PlanReport& report) {
  PlanReport::Worker model;
  for (const PlanReport::Unit& unit : report.units) {
    model.params += unit.params;
    model.macs += unit.macs;
  }
  const std::string text = absl::StrCat(Summary(report, model.params), "\n", Kinds(report),
                                        Loads(report, model), Work(report), Memory(report),
                                        Links(report), Phases(report, model), Rivals(report));
  const bool small =
      report.workers.size() <= kPictureWorkers && report.units.size() <= kPictureUnits;
  return absl::StrCat(text, "\n", small ? Picture(report) : SmallPicture(report));
}

}  // namespace sdp

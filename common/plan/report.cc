#include "common/plan/report.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/hash.h"
#include "common/plan/gap.h"

namespace sdp {
namespace {

// Keeps its keys in the order in which they were added.
using Json = nlohmann::ordered_json;

PlanReport::Unit DescribeUnit(const PlanInput& input, const UnitSpec& unit, double coverage,
                              const std::vector<int>& holders) {
  PlanReport::Unit described;
  described.name = unit.name;
  described.kind = unit.kind;
  described.params = unit.params;
  described.macs = unit.macs;
  described.shared = unit.shared;
  described.coverage = coverage;
  for (const int worker : holders) {
    described.holders.push_back(input.ranks[static_cast<size_t>(worker)].name);
  }
  for (const Slice& slice : unit.slices) {
    described.slices.push_back({input.catalog->tensors[static_cast<size_t>(slice.tensor)].name,
                                slice.dim, slice.begin, slice.end});
  }
  return described;
}

void Add(const UnitSpec& unit, PlanReport::Worker* sums) {
  sums->params += unit.params;
  sums->macs += unit.macs;
  sums->recomputed_macs += unit.recomputed_macs;
  sums->activation_elements += unit.activation_elements;
}

// `all`: the full model's sums.
PlanReport::Worker DescribeWorker(const PlanInput& input, const PlanReport::Worker& all,
                                  const std::string& name, const std::vector<UnitId>& units,
                                  ElementBytes bytes, Masking masking) {
  PlanReport::Worker held;
  for (const UnitId id : units) {
    Add(input.catalog->unit(id), &held);
    held.units.push_back(input.catalog->unit(id).name);
  }
  // Attention's scores have no weights, yet count as if they had: a share of a few per cent.
  const auto share_of = [&](int64_t macs) {
    return all.macs > 0 ? static_cast<double>(macs) / static_cast<double>(all.macs) : 1;
  };
  const double share = share_of(held.macs);
  const PlanReport::Worker& computed = masking == Masking::kForward ? held : all;
  PlanReport::Worker described = computed;
  described.id = name;
  described.units = held.units;
  described.params = held.params;
  described.push_bytes = held.params * bytes.gradient;
  described.pull_bytes = computed.params * bytes.weight;
  described.flops_share = masking == Masking::kForward ? share : (2 + share) / 3;
  described.flops_share += share_of(computed.recomputed_macs) / 3;
  return described;
}

// Largest / mean; 1 if all are 0.
double Imbalance(const std::vector<PlanReport::Worker>& workers,
                 int64_t PlanReport::Worker::*amount) {
  double sum = 0;
  double largest = 0;
  for (const PlanReport::Worker& worker : workers) {
    sum += static_cast<double>(worker.*amount);
    largest = std::max(largest, static_cast<double>(worker.*amount));
  }
  return sum > 0 ? largest * static_cast<double>(workers.size()) / sum : 1;
}

double MeanCoverage(const PlanInput& input) {
  double sum = 0;
  int count = 0;
  bool uniform = true;
  double last = 1;
  for (size_t j = 0; j < input.coverage.size(); ++j) {
    if (input.catalog->units[j].shared) continue;
    uniform = uniform && (count == 0 || input.coverage[j] == last);
    last = input.coverage[j];
    sum += last;
    ++count;
  }
  return uniform ? last : sum / count;  // The sum's rounding stays out of the usual case.
}

void PredictShards(const Plan& plan, ElementBytes bytes, const MemoryModel& memory,
                   PlanReport* report) {
  const auto ranks = static_cast<int64_t>(plan.units.size());
  for (const ShardLoad& load : ShardMemory(memory)) {
    report->shards.push_back(
        {absl::StrCat("shard-", report->shards.size()), load.params, load.memory_bytes});
  }
  // Each fragment comes from each of its holders and goes to them; with backward masking to all.
  const std::vector<ShardId> place = memory.layout->Place(memory.shards);
  for (int id = 0; id < memory.layout->fragments(); ++id) {
    const Fragment& fragment = memory.layout->fragment(FragmentId(id));
    const auto holders = plan.holders[static_cast<size_t>(fragment.unit.value())].size();
    const int64_t pushed = fragment.size * static_cast<int64_t>(holders);
    const int64_t pulled = memory.masking == Masking::kForward ? pushed : fragment.size * ranks;
    PlanReport::Shard& shard =
        report->shards[static_cast<size_t>(place[static_cast<size_t>(id)].value())];
    shard.push_bytes += pushed * bytes.gradient;
    shard.pull_bytes += pulled * bytes.weight;
  }
}

// Adds how long a worker's or a shard's link is busy in each direction, if that is asked for.
template <typename Member>
void AddLinkTime(const PlanReport& report, const Member& member, Json& json) {
  if (report.bandwidth <= 0) return;
  json["push_seconds"] = static_cast<double>(member.push_bytes) / report.bandwidth;
  json["pull_seconds"] = static_cast<double>(member.pull_bytes) / report.bandwidth;
}

Json WorkerJson(const PlanReport& report, const PlanReport::Worker& worker) {
  Json json = {{"id", worker.id},
               {"units", worker.units},
               {"params", worker.params},
               {"macs", worker.macs},
               {"activation_elements", worker.activation_elements},
               {"push_bytes", worker.push_bytes},
               {"pull_bytes", worker.pull_bytes}};
  if (worker.memory_bytes > 0) json["memory_bytes"] = worker.memory_bytes;
  AddLinkTime(report, worker, json);
  return json;
}

Json ShardJson(const PlanReport& report, const PlanReport::Shard& shard) {
  Json json = {{"id", shard.id},
               {"params", shard.params},
               {"memory_bytes", shard.memory_bytes},
               {"push_bytes", shard.push_bytes},
               {"pull_bytes", shard.pull_bytes}};
  AddLinkTime(report, shard, json);
  return json;
}

Json PhaseJson(const PlanReport::Phase& phase) {
  Json json = {
      {"from", phase.from}, {"coverage", phase.coverage},     {"params", phase.params},
      {"macs", phase.macs}, {"push_bytes", phase.push_bytes}, {"pull_bytes", phase.pull_bytes}};
  if (phase.memory_bytes > 0) json["memory_bytes"] = phase.memory_bytes;
  json["gap"] = phase.gap;
  return json;
}

Json RivalJson(const PlanReport::Rival& rival) {
  Json json = {
      {"name", rival.name}, {"size", rival.size}, {"params", rival.params}, {"macs", rival.macs}};
  if (rival.memory_bytes > 0) json["memory_bytes"] = rival.memory_bytes;
  return json;
}

Json SliceJson(const PlanReport::Part& part) {
  Json json = {{"tensor", part.tensor}};
  if (part.dim >= 0) {
    json["dim"] = part.dim;
    json["begin"] = part.begin;
    json["end"] = part.end;
  }
  return json;
}

}  // namespace

std::vector<PlanReport::Worker> ReportWorkers(const PlanInput& input, const Plan& plan,
                                              ElementBytes bytes, const MemoryModel& memory) {
  std::vector<PlanReport::Worker> workers;
  PlanReport::Worker all;
  for (const UnitSpec& unit : input.catalog->units) Add(unit, &all);
  const int ranks = static_cast<int>(plan.units.size());
  for (int rank = 0; rank < ranks; ++rank) {
    const auto i = static_cast<size_t>(rank);
    workers.push_back(
        DescribeWorker(input, all, input.ranks[i].name, plan.units[i], bytes, memory.masking));
    if (memory.stages == nullptr) continue;
    MemoryPeak peak = WorkerMemory(*input.catalog, plan.units[i], memory, rank, ranks);
    workers.back().memory_bytes = peak.bytes;
    workers.back().memory_when = std::move(peak.when);
  }
  return workers;
}

PlanReport MakePlanReport(const PlanInput& input, const Plan& plan, ElementBytes bytes,
                          const MemoryModel& memory) {
  const Catalog& catalog = *input.catalog;
  PlanReport report;
  report.workers = ReportWorkers(input, plan, bytes, memory);
  for (size_t j = 0; j < catalog.units.size(); ++j) {
    report.units.push_back(
        DescribeUnit(input, catalog.units[j], input.coverage[j], plan.holders[j]));
  }
  if (memory.layout != nullptr) PredictShards(plan, bytes, memory, &report);
  report.coverage = MeanCoverage(input);
  report.connected = Connected(catalog, plan, SharedUnits::kCounted);
  report.connected_without_shared = Connected(catalog, plan, SharedUnits::kIgnored);
  const auto gap = [&](UnitWeight weight, SharedUnits shared) {
    return SpectralGap(catalog, plan, weight, shared);
  };
  report.gap = gap(UnitWeight::kEqual, SharedUnits::kIgnored);
  report.gap_weighted = gap(UnitWeight::kParams, SharedUnits::kIgnored);
  report.gap_with_shared = gap(UnitWeight::kEqual, SharedUnits::kCounted);
  report.gap_weighted_with_shared = gap(UnitWeight::kParams, SharedUnits::kCounted);
  report.mac_imbalance = Imbalance(report.workers, &PlanReport::Worker::macs);
  report.param_imbalance = Imbalance(report.workers, &PlanReport::Worker::params);
  report.activation_imbalance = Imbalance(report.workers, &PlanReport::Worker::activation_elements);
  report.memory_imbalance = Imbalance(report.workers, &PlanReport::Worker::memory_bytes);
  report.seed = input.seed;
  report.hash = HashText(plan.hash);
  report.warnings = plan.warnings;
  report.masking = memory.masking;
  report.recomputed = std::any_of(catalog.stages.begin(), catalog.stages.end(),
                                  [](const StageSpec& stage) { return stage.recomputed; });
  report.assignment = input.assignment;
  return report;
}

PlanReport::Phase PhaseOf(const PlanReport& report, int64_t from) {
  PlanReport::Phase phase;
  phase.from = from;
  phase.coverage = report.coverage;
  phase.gap = report.gap;
  for (const PlanReport::Worker& worker : report.workers) {
    phase.params = std::max(phase.params, worker.params);
    phase.macs = std::max(phase.macs, worker.macs);
    phase.push_bytes = std::max(phase.push_bytes, worker.push_bytes);
    phase.pull_bytes = std::max(phase.pull_bytes, worker.pull_bytes);
    phase.memory_bytes = std::max(phase.memory_bytes, worker.memory_bytes);
  }
  return phase;
}

std::string PlanJson(const PlanReport& report) {
  Json workers = Json::array();
  for (const PlanReport::Worker& worker : report.workers) {
    workers.push_back(WorkerJson(report, worker));
  }
  Json units = Json::array();
  for (const PlanReport::Unit& unit : report.units) {
    Json slices = Json::array();
    for (const PlanReport::Part& part : unit.slices) slices.push_back(SliceJson(part));
    units.push_back(Json{{"name", unit.name},
                         {"kind", unit.kind},
                         {"params", unit.params},
                         {"macs", unit.macs},
                         {"shared", unit.shared},
                         {"coverage", unit.coverage},
                         {"holders", unit.holders},
                         {"slices", std::move(slices)}});
  }
  Json shards = Json::array();
  for (const PlanReport::Shard& shard : report.shards) shards.push_back(ShardJson(report, shard));
  Json json = {{"workers", std::move(workers)},
               {"units", std::move(units)},
               {"shards", std::move(shards)},
               {"coverage", report.coverage},
               {"connected", report.connected},
               {"connected_without_shared", report.connected_without_shared},
               {"gap", report.gap},
               {"gap_weighted", report.gap_weighted},
               {"gap_with_shared", report.gap_with_shared},
               {"gap_weighted_with_shared", report.gap_weighted_with_shared},
               {"mac_imbalance", report.mac_imbalance},
               {"param_imbalance", report.param_imbalance},
               {"activation_imbalance", report.activation_imbalance},
               {"memory_imbalance", report.memory_imbalance},
               {"seed", report.seed},
               {"hash", report.hash}};
  if (report.bandwidth > 0) json["bandwidth"] = report.bandwidth;
  for (const PlanReport::Phase& phase : report.phases) json["phases"].push_back(PhaseJson(phase));
  for (const PlanReport::Rival& rival : report.rivals) json["rivals"].push_back(RivalJson(rival));
  return json.dump(2) + "\n";
}

}  // namespace sdp

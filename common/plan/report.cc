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

PlanReport::Unit DescribeUnit(const PlanInput& input, const UnitSpec& unit,
                              const std::vector<int>& holders) {
  PlanReport::Unit described;
  described.name = unit.name;
  described.kind = unit.kind;
  described.params = unit.params;
  described.macs = unit.macs;
  described.shared = unit.shared;
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
  sums->activation_elements += unit.activation_elements;
}

PlanReport::Worker DescribeWorker(const PlanInput& input, const std::string& name,
                                  const std::vector<UnitId>& units, ElementBytes bytes,
                                  Masking masking) {
  PlanReport::Worker held, all;
  for (const UnitSpec& unit : input.catalog->units) Add(unit, &all);
  for (const UnitId id : units) {
    Add(input.catalog->unit(id), &held);
    held.units.push_back(input.catalog->unit(id).name);
  }
  // Attention's scores have no weights, yet count as if they had: a share of a few per cent.
  const double share =
      all.macs > 0 ? static_cast<double>(held.macs) / static_cast<double>(all.macs) : 1;
  const PlanReport::Worker& computed = masking == Masking::kForward ? held : all;
  PlanReport::Worker described = computed;
  described.id = name;
  described.units = held.units;
  described.params = held.params;
  described.push_bytes = held.params * bytes.gradient;
  described.pull_bytes = computed.params * bytes.weight;
  described.flops_share = masking == Masking::kForward ? share : (2 + share) / 3;
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

void PredictMemory(const PlanInput& input, const Plan& plan, const MemoryModel& memory,
                   PlanReport* report) {
  const int ranks = static_cast<int>(plan.units.size());
  for (int rank = 0; rank < ranks; ++rank) {
    const auto i = static_cast<size_t>(rank);
    MemoryPeak peak = WorkerMemory(*input.catalog, plan.units[i], memory, rank, ranks);
    report->workers[i].memory_bytes = peak.bytes;
    report->workers[i].memory_when = std::move(peak.when);
  }
  for (const ShardLoad& load : ShardMemory(memory)) {
    report->shards.push_back(
        {absl::StrCat("shard-", report->shards.size()), load.params, load.memory_bytes});
  }
}

Json WorkerJson(const PlanReport::Worker& worker) {
  Json json = {{"id", worker.id},
               {"units", worker.units},
               {"params", worker.params},
               {"macs", worker.macs},
               {"activation_elements", worker.activation_elements},
               {"push_bytes", worker.push_bytes},
               {"pull_bytes", worker.pull_bytes}};
  if (worker.memory_bytes > 0) json["memory_bytes"] = worker.memory_bytes;
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

PlanReport MakePlanReport(const PlanInput& input, const Plan& plan, ElementBytes bytes,
                          const MemoryModel& memory) {
  const Catalog& catalog = *input.catalog;
  PlanReport report;
  for (size_t i = 0; i < plan.units.size(); ++i) {
    report.workers.push_back(
        DescribeWorker(input, input.ranks[i].name, plan.units[i], bytes, memory.masking));
  }
  for (size_t j = 0; j < catalog.units.size(); ++j) {
    report.units.push_back(DescribeUnit(input, catalog.units[j], plan.holders[j]));
  }
  if (memory.stages != nullptr) PredictMemory(input, plan, memory, &report);
  report.coverage = MeanCoverage(input);
  report.connected = Connected(catalog, plan, SharedUnits::kCounted);
  report.connected_without_shared = Connected(catalog, plan, SharedUnits::kIgnored);
  report.gap = SpectralGap(catalog, plan, UnitWeight::kEqual);
  report.gap_weighted = SpectralGap(catalog, plan, UnitWeight::kParams);
  report.mac_imbalance = Imbalance(report.workers, &PlanReport::Worker::macs);
  report.param_imbalance = Imbalance(report.workers, &PlanReport::Worker::params);
  report.seed = input.seed;
  report.hash = HashText(plan.hash);
  report.warnings = plan.warnings;
  report.masking = memory.masking;
  report.assignment = input.assignment;
  return report;
}

std::string PlanJson(const PlanReport& report) {
  Json workers = Json::array();
  for (const PlanReport::Worker& worker : report.workers) {
    workers.push_back(WorkerJson(worker));
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
                         {"holders", unit.holders},
                         {"slices", std::move(slices)}});
  }
  Json shards = Json::array();
  for (const PlanReport::Shard& shard : report.shards) {
    shards.push_back(
        Json{{"id", shard.id}, {"params", shard.params}, {"memory_bytes", shard.memory_bytes}});
  }
  const Json json = {{"workers", std::move(workers)},
                     {"units", std::move(units)},
                     {"shards", std::move(shards)},
                     {"coverage", report.coverage},
                     {"connected", report.connected},
                     {"connected_without_shared", report.connected_without_shared},
                     {"gap", report.gap},
                     {"gap_weighted", report.gap_weighted},
                     {"mac_imbalance", report.mac_imbalance},
                     {"param_imbalance", report.param_imbalance},
                     {"seed", report.seed},
                     {"hash", report.hash}};
  return json.dump(2) + "\n";
}

}  // namespace sdp

#include "common/run/dense_rivals.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <numeric>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"

namespace sdp {
namespace {

using Rival = PlanReport::Rival;

struct Limits {
  int64_t macs = 0;
  int64_t memory_bytes = 0;  // 0: not known

  bool Allow(const Rival& rival) const {
    return rival.macs <= macs && (memory_bytes == 0 || rival.memory_bytes <= memory_bytes);
  }
};

// Its costs on a worker that holds all of it.
absl::StatusOr<Rival> Cost(RunConfig config) {
  RunConfig::Sdp& sdp = *config.mutable_sdp();
  sdp.clear_holders();
  sdp.clear_depth();
  sdp.clear_coverage_by();
  sdp.clear_phases();
  sdp.clear_attention();
  sdp.clear_groups();
  sdp.set_granularity("block");  // Nothing is left out: into what it is cut plays no part.
  sdp.set_coverage(1);
  SDP_ASSIGN_OR_RETURN(const RunSetup setup, MakeRunSetup(config));
  Rival rival;
  std::vector<UnitId> units;
  for (const UnitSpec& unit : setup.catalog.units) {
    units.push_back(UnitId(static_cast<int32_t>(units.size())));
    rival.params += unit.params;
    rival.macs += unit.macs;
  }
  const MemoryModel memory = MemoryModelFrom(setup);
  const int workers = static_cast<int>(config.cluster().workers());
  rival.memory_bytes = WorkerMemory(setup.catalog, units, memory, /*rank=*/0, workers).bytes;
  return rival;
}

// Sizes in [1, most], of which larger ones cost more.
struct Family {
  std::string name;
  int64_t most = 1;
  std::function<void(int64_t size, RunConfig::Model& model)> shrink;
  std::function<std::string(const RunConfig::Model& model)> describe;
};

Family FewerLayers(const RunConfig::Model& full) {
  return {.name = "fewer layers",
          .most = full.layers(),
          .shrink = [](int64_t size, RunConfig::Model& model) { model.set_layers(size); },
          .describe =
              [layers = full.layers()](const RunConfig::Model& model) {
                return absl::StrCat(model.layers(), " of ", layers, " layers");
              }};
}

// dim in multiples of `unit`, ffn_dim in the same proportion.
Family Narrower(const RunConfig::Model& full, int64_t unit) {
  const int64_t most = full.dim() / unit;
  return {.name = "narrower",
          .most = most,
          .shrink =
              [full, most, unit](int64_t size, RunConfig::Model& model) {
                const double share = static_cast<double>(size) / static_cast<double>(most);
                const double ffn = share * static_cast<double>(full.ffn_dim());
                model.set_dim(unit * size);
                model.set_ffn_dim(std::max<int64_t>(1, std::llround(ffn)));
              },
          .describe =
              [full](const RunConfig::Model& model) {
                return absl::StrCat("dim ", model.dim(), " of ", full.dim(), ", ffn_dim ",
                                    model.ffn_dim(), " of ", full.ffn_dim());
              }};
}

std::string List(const google::protobuf::RepeatedField<int64_t>& values) {
  return absl::StrCat("[", absl::StrJoin(values, ", "), "]");
}

// One block of each level, and one more at a time for the level that has the least part of its own.
Family FewerBlocks(const RunConfig::Model& full) {
  const int64_t all = std::accumulate(full.depths().begin(), full.depths().end(), int64_t{0});
  const auto part = [full](const RunConfig::Model& model, int level) {
    return static_cast<double>(model.depths(level)) / static_cast<double>(full.depths(level));
  };
  return {.name = "fewer blocks",
          .most = all - full.depths_size() + 1,
          .shrink =
              [part](int64_t size, RunConfig::Model& model) {
                for (int64_t& depth : *model.mutable_depths()) depth = 1;
                for (int64_t blocks = 1; blocks < size; ++blocks) {
                  int least = 0;
                  for (int level = 1; level < model.depths_size(); ++level) {
                    if (part(model, level) < part(model, least)) least = level;
                  }
                  model.set_depths(least, model.depths(least) + 1);
                }
              },
          .describe =
              [full](const RunConfig::Model& model) {
                return absl::StrCat("depths ", List(model.depths()), " of ", List(full.depths()));
              }};
}

// All widths in proportion, as near as the norms' groups allow.
Family FewerChannels(const RunConfig::Model& full) {
  const int64_t unit = full.norm() == "group" ? full.norm_groups() : 1;
  const int64_t most = *std::max_element(full.widths().begin(), full.widths().end()) / unit;
  return {.name = "narrower",
          .most = most,
          .shrink =
              [full, most, unit](int64_t size, RunConfig::Model& model) {
                for (int level = 0; level < full.widths_size(); ++level) {
                  const double units = static_cast<double>(full.widths(level) / unit * size) /
                                       static_cast<double>(most);
                  model.set_widths(level, unit * std::max<int64_t>(1, std::llround(units)));
                }
              },
          .describe =
              [full](const RunConfig::Model& model) {
                return absl::StrCat("widths ", List(model.widths()), " of ", List(full.widths()));
              }};
}

// All levels in proportion, as their widths double: in steps that all levels' heads divide.
Family NarrowerLevels(const RunConfig::Model& full) {
  int64_t unit = 1;
  for (int level = 0; level < full.level_heads_size(); ++level) {
    const int64_t heads = full.level_heads(level);
    unit = std::lcm(unit, heads / std::gcd(heads, int64_t{1} << level));
  }
  return {.name = "narrower",
          .most = full.dim() / unit,
          .shrink = [unit](int64_t size, RunConfig::Model& model) { model.set_dim(unit * size); },
          .describe =
              [full](const RunConfig::Model& model) {
                return absl::StrCat("dim ", model.dim(), " of ", full.dim());
              }};
}

std::vector<Family> Families(const RunConfig::Model& full) {
  if (full.arch() == "resnet") return {FewerBlocks(full), FewerChannels(full)};
  if (full.arch() == "swin") return {FewerBlocks(full), NarrowerLevels(full)};
  // Of heads two elements each: an even width, for rotary embeddings.
  const int64_t unit = full.arch() == "llama" ? 2 * full.heads() : 1;
  return {FewerLayers(full), Narrower(full, unit)};
}

// The largest of the family that is allowed, if there is one.
absl::StatusOr<std::vector<Rival>> Largest(const RunConfig& config, const Family& family,
                                           const Limits& limits) {
  std::vector<Rival> found;  // at most one
  int64_t fits = 0, too_large = family.most + 1;
  while (too_large - fits > 1) {
    const int64_t size = std::midpoint(fits, too_large);
    RunConfig smaller = config;
    family.shrink(size, *smaller.mutable_model());
    SDP_ASSIGN_OR_RETURN(Rival rival, Cost(smaller));
    if (!limits.Allow(rival)) {
      too_large = size;
      continue;
    }
    fits = size;
    rival.name = family.name;
    rival.size = family.describe(smaller.model());
    found = {std::move(rival)};
  }
  return found;
}

}  // namespace

absl::StatusOr<std::vector<PlanReport::Rival>> DenseRivals(const RunSetup& setup,
                                                           const PlanReport& report) {
  Limits limits;
  for (const PlanReport::Worker& worker : report.workers) {
    limits.macs = std::max(limits.macs, worker.macs);
    limits.memory_bytes = std::max(limits.memory_bytes, worker.memory_bytes);
  }
  std::vector<Rival> rivals;
  for (const Family& family : Families(setup.config.model())) {
    SDP_ASSIGN_OR_RETURN(const std::vector<Rival> found, Largest(setup.config, family, limits));
    rivals.insert(rivals.end(), found.begin(), found.end());
  }
  return rivals;
}

}  // namespace sdp

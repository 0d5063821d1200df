#include "common/plan/memory_fit.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/plan/memory.h"

namespace sdp {
namespace {

std::string MiB(int64_t bytes) { return absl::StrFormat("%.1f MiB", std::ldexp(bytes, -20)); }

class Fitting {
 public:
  Fitting(const PlanInput& input, const std::vector<std::vector<int>>& holders) : input_(&input) {
    workers_.resize(input.ranks.size());
    for (size_t rank = 0; rank < workers_.size(); ++rank) {
      const int64_t memory = input.ranks[rank].memory_bytes;
      if (memory > 0) workers_[rank].limit = memory;
    }
    for (size_t j = 0; j < holders.size(); ++j) {
      for (const int rank : holders[j]) At(rank).units.insert(UnitId(static_cast<int32_t>(j)));
    }
    CountUnits();
  }

  // What moves add up to stays about the same.
  bool EnoughTogether() const {
    double needs = 0, limits = 0;
    for (int rank = 0; rank < size(); ++rank) {
      const Worker& worker = workers_[static_cast<size_t>(rank)];
      needs += static_cast<double>(Needs(rank, worker.units));
      limits += static_cast<double>(worker.limit);
    }
    return needs <= limits;
  }

  // Whole subnetworks: the least memory gets the one that needs the least.
  void DealBySize() {
    std::vector<int> by_memory(workers_.size());
    std::iota(by_memory.begin(), by_memory.end(), 0);
    std::vector<int> by_need = by_memory;
    std::stable_sort(by_memory.begin(), by_memory.end(),
                     [this](int a, int b) { return At(a).limit < At(b).limit; });
    std::vector<int64_t> needs;
    std::vector<Units> units;
    for (int rank = 0; rank < size(); ++rank) {
      needs.push_back(Needs(rank, At(rank).units));
      units.push_back(At(rank).units);
    }
    std::stable_sort(by_need.begin(), by_need.end(), [&needs](int a, int b) {
      return needs[static_cast<size_t>(a)] < needs[static_cast<size_t>(b)];
    });
    for (size_t i = 0; i < workers_.size(); ++i)
      At(by_memory[i]).units = std::move(units[static_cast<size_t>(by_need[i])]);
    CountUnits();
  }

  absl::Status Run() {
    for (int rank = 0; rank < size(); ++rank) {
      while (Needs(rank, At(rank).units) > At(rank).limit) {
        if (!GiveAway(rank) && !Exchange(rank)) return TooSmall(rank);
        At(rank).gave = true;
      }
    }
    return absl::OkStatus();
  }

  std::vector<int> Gave() const {
    std::vector<int> gave;
    for (int rank = 0; rank < size(); ++rank) {
      if (workers_[static_cast<size_t>(rank)].gave) gave.push_back(rank);
    }
    return gave;
  }

  std::vector<std::vector<int>> Holders() const {
    std::vector<std::vector<int>> holders(input_->catalog->units.size());
    for (int rank = 0; rank < size(); ++rank) {
      for (const UnitId unit : workers_[static_cast<size_t>(rank)].units)
        holders[static_cast<size_t>(unit.value())].push_back(rank);
    }
    return holders;
  }

 private:
  using Units = std::set<UnitId>;
  struct Worker {
    Units units;
    int64_t limit = std::numeric_limits<int64_t>::max();
    int64_t macs = 0;
    int own = 0;  // units that are not shared
    bool gave = false;
  };

  void CountUnits() {
    for (Worker& worker : workers_) {
      worker.macs = worker.own = 0;
      for (const UnitId unit : worker.units) {
        worker.macs += Spec(unit).macs;
        if (!Spec(unit).shared) ++worker.own;
      }
    }
  }
  int size() const { return static_cast<int>(workers_.size()); }
  Worker& At(int rank) { return workers_[static_cast<size_t>(rank)]; }
  const UnitSpec& Spec(UnitId unit) const { return input_->catalog->unit(unit); }

  int64_t Needs(int rank, const Units& units) const { return Peak(rank, units).bytes; }
  MemoryPeak Peak(int rank, const Units& units) const {
    const std::vector<UnitId> list(units.begin(), units.end());
    return TrainingMemory(*input_->catalog, list, *input_->memory,
                          PortionOf(*input_->memory, rank, size()));
  }
  static Units Without(Units units, UnitId out) {
    units.erase(out);
    return units;
  }
  static Units With(Units units, UnitId in) {
    units.insert(in);
    return units;
  }

  // Units that a worker may do without, smallest first.
  std::vector<UnitId> Movable(const Worker& worker) const {
    std::vector<UnitId> units;
    for (const UnitId unit : worker.units) {
      if (!Spec(unit).shared) units.push_back(unit);
    }
    std::stable_sort(units.begin(), units.end(),
                     [this](UnitId a, UnitId b) { return Spec(a).params < Spec(b).params; });
    return units;
  }

  // All others, the least loaded first.
  std::vector<int> Others(int rank) {
    std::vector<int> others;
    for (int other = 0; other < size(); ++other) {
      if (other != rank) others.push_back(other);
    }
    std::stable_sort(others.begin(), others.end(),
                     [this](int a, int b) { return At(a).macs < At(b).macs; });
    return others;
  }

  void Move(UnitId unit, int from, int to) {
    At(from).units.erase(unit);
    At(to).units.insert(unit);
    At(from).macs -= Spec(unit).macs;
    At(to).macs += Spec(unit).macs;
    --At(from).own;
    ++At(to).own;
  }

  // The smallest unit without which it has enough, else the largest that helps.
  bool GiveAway(int rank) {
    const Worker& worker = At(rank);
    if (worker.own < 2) return false;
    const int64_t before = Needs(rank, worker.units);
    std::optional<std::pair<UnitId, int>> largest;
    for (const UnitId unit : Movable(worker)) {
      const int64_t after = Needs(rank, Without(worker.units, unit));
      if (after >= before) continue;
      const std::optional<int> to = RoomFor(unit, rank);
      if (!to.has_value()) continue;
      largest.emplace(unit, *to);
      if (after <= worker.limit) break;
    }
    if (largest.has_value()) Move(largest->first, rank, largest->second);
    return largest.has_value();
  }

  std::optional<int> RoomFor(UnitId unit, int rank) {
    for (const int other : Others(rank)) {
      const Worker& to = At(other);
      if (!to.units.contains(unit) && Needs(other, With(to.units, unit)) <= to.limit) return other;
    }
    return std::nullopt;
  }

  // Its largest unit for a smaller one.
  bool Exchange(int rank) {
    std::vector<UnitId> mine = Movable(At(rank));
    std::reverse(mine.begin(), mine.end());
    const int64_t before = Needs(rank, At(rank).units);
    for (const UnitId out : mine) {
      for (const int other : Others(rank)) {
        if (At(other).units.contains(out)) continue;
        for (const UnitId in : Movable(At(other))) {
          if (Spec(in).params >= Spec(out).params) break;
          if (At(rank).units.contains(in)) continue;
          const Units here = With(Without(At(rank).units, out), in);
          const Units there = With(Without(At(other).units, in), out);
          if (Needs(rank, here) >= before || Needs(other, there) > At(other).limit) continue;
          Move(out, rank, other);
          Move(in, other, rank);
          return true;
        }
      }
    }
    return false;
  }

  absl::Status TooSmall(int rank) {
    const MemoryPeak peak = Peak(rank, At(rank).units);
    return absl::InvalidArgumentError(
        absl::StrCat(input_->ranks[static_cast<size_t>(rank)].name, " has ", MiB(At(rank).limit),
                     " of memory and would need ", MiB(peak.bytes), " (", peak.when, "), with ",
                     At(rank).own, " units that are not shared, and no other worker has room for ",
                     At(rank).own > 1 ? "one of them" : "its only one",
                     "; give it more memory, or lower sdp.coverage or train.micro_batch, or set "
                     "train.recompute"));
  }

  const PlanInput* input_;
  std::vector<Worker> workers_;  // [N]
};

}  // namespace

absl::StatusOr<std::vector<int>> MoveIntoMemory(const PlanInput& input,
                                                std::vector<std::vector<int>>& holders) {
  Fitting fitting(input, holders);
  if (absl::Status status = fitting.Run(); !status.ok()) {
    fitting = Fitting(input, holders);
    if (!fitting.EnoughTogether()) return status;
    fitting.DealBySize();
    if (!fitting.Run().ok()) return absl::ResourceExhaustedError(status.message());
  }
  holders = fitting.Holders();
  return fitting.Gave();
}

}  // namespace sdp

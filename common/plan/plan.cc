#include "common/plan/plan.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>
#include <numeric>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "common/base/hash.h"
#include "common/base/random.h"
#include "common/base/status.h"
#include "common/plan/assign.h"
#include "common/plan/designs.h"
#include "common/plan/gap.h"
#include "common/plan/memory.h"
#include "common/plan/memory_fit.h"
#include "common/plan/swaps.h"

namespace sdp {
namespace {

// c N, exact where it is meant to be a whole number.
double Share(double coverage, size_t workers) {
  const double share = coverage * static_cast<double>(workers);
  const double whole = std::round(share);
  return std::abs(share - whole) <= kShareRounding ? whole : share;
}

const std::vector<double>& Reference(const PlanInput& input) {
  return input.reference.empty() ? input.coverage : input.reference;
}

absl::Status CheckInput(const PlanInput& input) {
  const Catalog& catalog = *input.catalog;
  const size_t workers = input.ranks.size();
  if (workers == 0) return absl::InvalidArgumentError("a plan needs at least one worker");
  if (input.coverage.size() != catalog.units.size()) {
    return absl::InvalidArgumentError(absl::StrCat("coverage is given for ", input.coverage.size(),
                                                   " units; the model has ", catalog.units.size()));
  }
  if (Reference(input).size() != catalog.units.size()) {
    return absl::InvalidArgumentError(absl::StrCat("reference coverage is given for ",
                                                   input.reference.size(), " units; the model has ",
                                                   catalog.units.size()));
  }
  for (size_t j = 0; j < catalog.units.size(); ++j) {
    const UnitSpec& unit = catalog.units[j];
    const double coverage = input.coverage[j];
    if (!(coverage > 0 && coverage <= 1)) {
      return absl::InvalidArgumentError(
          absl::StrCat("unit ", unit.name, ": coverage ", coverage, " is outside (0, 1]"));
    }
    if (unit.shared && coverage != 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("unit ", unit.name, ": a shared unit has coverage 1, not ", coverage));
    }
    if (Share(coverage, workers) < 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("unit ", unit.name, ": coverage ", coverage, " of ", workers,
                       " workers is less than one holder; it must be at least 1/", workers, " = ",
                       1 / static_cast<double>(workers)));
    }
  }
  return absl::OkStatus();
}

struct NamedKind {
  std::string name;
  Kind kind;
  bool designed = false;  // dealt by a design
};

// A design that reaches this share of the largest gap is left as it is: loads and the order of its
// units are worth more than a little.
constexpr double kWellMixed = 0.7;

// [units] The stage that reads it beside others that are not shared, of which it is a part then; -1
// if there is none.
std::vector<int> BranchesOf(const Catalog& catalog) {
  std::vector<int> branches(catalog.units.size(), -1);
  for (size_t stage = 0; stage < catalog.stages.size(); ++stage) {
    std::vector<size_t> parts;
    for (const UnitId id : catalog.stages[stage].units) {
      if (!catalog.unit(id).shared) parts.push_back(static_cast<size_t>(id.value()));
    }
    if (parts.size() < 2) continue;
    for (const size_t unit : parts) branches[unit] = static_cast<int>(stage);
  }
  return branches;
}

// Kinds of the units that are not shared, expensive ones first: what the last ones cost levels
// best.
std::vector<NamedKind> KindsOf(const PlanInput& input) {
  std::vector<NamedKind> kinds;
  absl::flat_hash_map<absl::string_view, size_t> index;
  const std::vector<int> branches = BranchesOf(*input.catalog);
  for (size_t j = 0; j < input.catalog->units.size(); ++j) {
    const UnitSpec& unit = input.catalog->units[j];
    if (unit.shared) continue;
    const auto [found, is_new] = index.try_emplace(unit.kind, kinds.size());
    if (is_new) kinds.push_back({unit.kind, {}});
    kinds[found->second].kind.members.push_back(
        {UnitId(static_cast<int32_t>(j)), unit.macs, unit.params,
         Share(input.coverage[j], input.ranks.size()), branches[j]});
  }
  std::stable_sort(kinds.begin(), kinds.end(), [](const NamedKind& a, const NamedKind& b) {
    return a.kind.members.front().macs > b.kind.members.front().macs;
  });
  return kinds;
}

// Each purpose draws from its own stream, anew for each rotation, and each draw of it.
RandomStream Stream(const PlanInput& input, int draw, absl::string_view purpose) {
  const std::string again = draw == 0 ? "" : absl::StrCat(" again ", draw);
  return RandomStream(input.seed,
                      Hash64(absl::StrCat("plan ", purpose, " ", input.rotation, again)));
}

class Planner {
 public:
  Planner(const PlanInput& input, int draw)
      : input_(input),
        draw_(draw),
        workers_(static_cast<int>(input.ranks.size())),
        random_(Stream(input, draw, "assignment")),
        draft_(workers_, input.catalog->units.size()) {}

  // [units] Holders, ascending; shared units included.
  absl::StatusOr<std::vector<std::vector<int>>> Assign() {
    std::vector<NamedKind> kinds = KindsOf(input_);
    for (NamedKind& named : kinds) SDP_RETURN_IF_ERROR(AssignKind(named));
    if (input_.assignment == Assignment::kResolvable) Swap(kinds);
    std::vector<int> everybody(static_cast<size_t>(workers_));
    std::iota(everybody.begin(), everybody.end(), 0);
    std::vector<int> label = everybody;
    if (redraw()) Shuffle(label, random_);
    for (size_t j = 0; j < draft_.holders.size(); ++j) {
      std::vector<int>& holders = draft_.holders[j];
      if (input_.catalog->units[j].shared) holders = everybody;
      for (int& worker : holders) worker = label[static_cast<size_t>(worker)];
      std::sort(holders.begin(), holders.end());
    }
    return std::move(draft_.holders);
  }

 private:
  // Rotation 0 keeps the designs' own order, so that the plan of a run that never rotates reads
  // well.
  bool redraw() const { return input_.rotation != 0 || draw_ != 0; }

  absl::Status AssignKind(NamedKind& named) {
    Kind& kind = named.kind;
    if (input_.assignment == Assignment::kCyclic) {
      if (kind.members.size() < static_cast<size_t>(workers_)) {
        return absl::InvalidArgumentError(absl::StrCat(
            "cyclic assignment needs at least as many units of a kind as workers: of kind \"",
            named.name, "\" (", input_.catalog->unit(kind.members.front().unit).name,
            ", ...) there are ", kind.members.size(), " for ", workers_, " workers"));
      }
      if (redraw()) Shuffle(kind.members, random_);
      AssignCyclic(kind, draft_);
      return absl::OkStatus();
    }
    if (input_.assignment == Assignment::kResolvable) {
      if (Dealer* dealer = DealerFor(kind.EqualHolders())) {
        AssignResolvable(kind, *dealer, draft_);
        named.designed = true;
        return absl::OkStatus();
      }
    }
    AssignEqualCounts(kind, random_, draft_);
    return absl::OkStatus();
  }

  // Kinds without a design were dealt by lot: swaps mix and level them. Where all have one, swaps
  // are tried if so few of its classes were used that they mix badly. Redraws mix by themselves in
  // time, and come while a run trains: there only loads are levelled.
  void Swap(const std::vector<NamedKind>& kinds) {
    std::vector<const Kind*> by_lot, by_design;
    for (const NamedKind& named : kinds) {
      (named.designed ? by_design : by_lot).push_back(&named.kind);
    }
    RandomStream random = Stream(input_, draw_, "swaps");
    const Swaps::Aim aim = redraw() ? Swaps::Aim::kLevel : Swaps::Aim::kMixAndLevel;
    if (!by_lot.empty()) return Swaps(by_lot, by_design, draft_).Improve(aim, random);
    if (redraw()) return;
    Swaps swaps(by_design, {}, draft_);
    if (swaps.ReachedGap() < kWellMixed) swaps.Improve(aim, random);
  }

  // Null: no design is known for p holders. Kinds with equal p share one dealer: its classes run
  // through all of them.
  Dealer* DealerFor(int holders) {
    if (holders == 0 || holders == workers_) return nullptr;
    const auto found = dealers_.find(holders);
    if (found != dealers_.end()) return &found->second;
    const bool complement = 2 * holders > workers_;
    const std::optional<Design> design =
        Design::Find(workers_, complement ? workers_ - holders : holders);
    if (!design.has_value()) return nullptr;
    RandomStream* const redraws = redraw() ? &random_ : nullptr;
    return &dealers_.try_emplace(holders, *design, complement, redraws).first->second;
  }

  const PlanInput& input_;
  const int draw_;
  const int workers_;
  RandomStream random_;
  Draft draft_;
  std::map<int, Dealer> dealers_;  // By p.
};

// The first worker without any unit that is not shared, if there are such units.
absl::Status CheckNobodyIdle(const PlanInput& input, const Plan& plan) {
  std::vector<bool> busy(input.ranks.size());
  int units = 0;
  for (size_t j = 0; j < plan.holders.size(); ++j) {
    if (input.catalog->units[j].shared) continue;
    ++units;
    for (const int worker : plan.holders[j]) busy[static_cast<size_t>(worker)] = true;
  }
  const auto idle = std::find(busy.begin(), busy.end(), false);
  if (units == 0 || idle == busy.end()) return absl::OkStatus();
  int64_t held = 0;
  for (size_t j = 0; j < plan.holders.size(); ++j) {
    if (!input.catalog->units[j].shared) held += static_cast<int64_t>(plan.holders[j].size());
  }
  return absl::InvalidArgumentError(
      absl::StrCat("worker ", input.ranks[static_cast<size_t>(idle - busy.begin())].name,
                   " would hold none of the units that are not shared: ", units, " units with ",
                   held, " holders in all do not reach ", busy.size(),
                   " workers; raise the coverage or take fewer workers"));
}

void AddWarnings(const Catalog& catalog, Plan& plan) {
  if (plan.units.size() < 2) return;
  int units = 0;
  int single = 0;
  for (size_t j = 0; j < plan.holders.size(); ++j) {
    if (catalog.units[j].shared) continue;
    ++units;
    if (plan.holders[j].size() == 1) ++single;
  }
  if (units > 0 && single == units) {
    plan.warnings.push_back(
        "every unit has one holder (p = 1): the workers share nothing but the shared units");
  } else if (!Connected(catalog, plan, SharedUnits::kIgnored)) {
    plan.warnings.push_back(
        "without the shared units the workers fall into groups that have no unit in common");
  }
}

class Hasher {
 public:
  void Add(uint64_t value) {
    char bytes[8];  // Little-endian.
    for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(value >> (8 * i));
    bytes_.append(bytes, sizeof(bytes));
  }
  void Add(absl::string_view text) {
    Add(uint64_t{text.size()});
    absl::StrAppend(&bytes_, text);
  }
  // The numbers so far are folded into one, so that the bytes of a large plan are never all there.
  void Fold() {
    hash_ = Hash64(bytes_, hash_);
    bytes_.clear();
  }
  uint64_t hash() const { return hash_; }

 private:
  std::string bytes_;
  uint64_t hash_ = 0;
};

uint64_t HashOf(const PlanInput& input, const Plan& plan) {
  Hasher hasher;
  hasher.Add(input.seed);
  hasher.Add(static_cast<uint64_t>(input.rotation));
  hasher.Add(uint64_t{input.ranks.size()});
  for (const Rank& rank : input.ranks) hasher.Add(rank.name);
  for (size_t j = 0; j < plan.holders.size(); ++j) {
    hasher.Add(input.catalog->units[j].name);
    hasher.Add(std::bit_cast<uint64_t>(input.coverage[j]));
    if (!input.reference.empty()) hasher.Add(std::bit_cast<uint64_t>(input.reference[j]));
    hasher.Add(uint64_t{plan.holders[j].size()});
    for (const int worker : plan.holders[j]) hasher.Add(static_cast<uint64_t>(worker));
    hasher.Fold();
  }
  hasher.Fold();
  return hasher.hash();
}

bool HasLimits(const PlanInput& input) {
  return input.memory != nullptr && input.memory->stages != nullptr &&
         std::any_of(input.ranks.begin(), input.ranks.end(),
                     [](const Rank& rank) { return rank.memory_bytes > 0; });
}

// Its holders, and what to say of them.
absl::StatusOr<Plan> Draw(const PlanInput& input, int draw) {
  Plan plan;
  SDP_ASSIGN_OR_RETURN(plan.holders, Planner(input, draw).Assign());
  SDP_RETURN_IF_ERROR(CheckNobodyIdle(input, plan));
  if (HasLimits(input)) {
    SDP_ASSIGN_OR_RETURN(const std::vector<int> gave, MoveIntoMemory(input, plan.holders));
    std::vector<std::string> names;
    for (const int rank : gave) names.push_back(input.ranks[static_cast<size_t>(rank)].name);
    if (!names.empty()) {
      plan.warnings.push_back(
          absl::StrCat("too little memory for an equal share of the units, so others hold more: ",
                       absl::StrJoin(names, ", ")));
    }
  }
  return plan;
}

}  // namespace

absl::StatusOr<Plan> MakePlan(const PlanInput& input) {
  SDP_RETURN_IF_ERROR(CheckInput(input));
  const Catalog& catalog = *input.catalog;
  const size_t workers = input.ranks.size();

  absl::StatusOr<Plan> drawn = Draw(input, 0);
  for (int draw = 1; draw < kDraws && absl::IsResourceExhausted(drawn.status()); ++draw) {
    if (absl::StatusOr<Plan> other = Draw(input, draw); other.ok()) drawn = std::move(other);
  }
  if (!drawn.ok()) return absl::InvalidArgumentError(drawn.status().message());
  Plan plan = *std::move(drawn);
  plan.units.resize(workers);
  for (size_t j = 0; j < catalog.units.size(); ++j) {
    for (const int worker : plan.holders[j]) {
      plan.units[static_cast<size_t>(worker)].push_back(UnitId(static_cast<int32_t>(j)));
    }
    plan.factors.push_back(Share(Reference(input)[j], workers) /
                           static_cast<double>(plan.holders[j].size()));
  }
  AddWarnings(catalog, plan);
  plan.hash = HashOf(input, plan);
  return plan;
}

}  // namespace sdp

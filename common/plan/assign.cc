#include "common/plan/assign.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace sdp {
namespace {

// Classes that are compared when a choice can level the workers' loads.
constexpr size_t kCandidates = 16;
// Of classes with more sets only the order is tried that gives expensive units to light sets.
constexpr int kMostTurned = 4;

std::vector<int> Range(int count) {
  std::vector<int> numbers(static_cast<size_t>(count));
  std::iota(numbers.begin(), numbers.end(), 0);
  return numbers;
}

bool EqualShares(absl::Span<const Kind::Member> members) {
  return std::all_of(members.begin(), members.end(), [&members](const Kind::Member& member) {
    return member.share == members.front().share;
  });
}

// Holders per unit, floor or ceil of each share, such that all workers can hold equally many: the
// largest fractions are rounded up. Empty if rounding does not reach a multiple of the workers.
std::vector<int> LevelHolders(absl::Span<const Kind::Member> members, int workers) {
  std::vector<int> holders;
  std::vector<size_t> fractional;
  double shares = 0;
  int64_t whole = 0;
  for (size_t j = 0; j < members.size(); ++j) {
    holders.push_back(static_cast<int>(std::floor(members[j].share)));
    if (members[j].share > holders.back()) fractional.push_back(j);
    shares += members[j].share;
    whole += holders.back();
  }
  const int64_t longer = std::llround(shares / workers) * workers - whole;
  if (longer < 0 || longer > static_cast<int64_t>(fractional.size())) return {};
  const auto fraction = [&](size_t j) { return members[j].share - holders[j]; };
  std::stable_sort(fractional.begin(), fractional.end(),
                   [&](size_t a, size_t b) { return fraction(a) > fraction(b); });
  for (int64_t i = 0; i < longer; ++i) ++holders[fractional[static_cast<size_t>(i)]];
  return holders;
}

// Holders per unit: floor or ceil of each share. Of unequal shares such that all workers can hold
// equally many, if that can be; else with every partial sum within 1/2 of the shares'.
std::vector<int> WholeHolders(absl::Span<const Kind::Member> members, int workers) {
  std::vector<int> holders;
  if (!EqualShares(members)) holders = LevelHolders(members, workers);
  if (!holders.empty()) return holders;
  double owed = 0;
  for (const Kind::Member& member : members) {
    const double whole = std::floor(member.share);
    int count = static_cast<int>(whole);
    owed += member.share - whole;
    // The tolerance makes halves round up in spite of the sum's rounding.
    if (member.share > whole && owed >= 0.5 - 1e-9) {
      ++count;
      owed -= 1;
    }
    holders.push_back(count);
  }
  return holders;
}

// Moves `count` items that are drawn without replacement from `pool` to the end of `chosen`.
void Draw(absl::Span<int> pool, size_t count, RandomStream& random, std::vector<int>& chosen) {
  for (size_t i = 0; i < count; ++i) {
    std::swap(pool[i], pool[i + random.Below(pool.size() - i)]);
    chosen.push_back(pool[i]);
  }
}

// By how much to turn `workers` around so that they carry the smallest load; the least such turn.
int LightestTurn(const Draft& draft, const std::vector<int>& workers) {
  const std::vector<int64_t> excess = draft.Excess();
  int best = 0;
  int64_t best_load = 0;
  for (int turn = 0; turn < draft.workers() && !workers.empty(); ++turn) {
    int64_t load = 0;
    for (const int worker : workers) {
      load += excess[static_cast<size_t>((worker + turn) % draft.workers())];
    }
    if (turn == 0 || load < best_load) {
      best = turn;
      best_load = load;
    }
  }
  return best;
}

std::vector<int> Run(int start, int length, int workers) {
  std::vector<int> run;
  for (int i = 0; i < length; ++i) run.push_back((start + i) % workers);
  return run;
}

// Smaller is better: the largest load, then what lies above the mean.
std::pair<int64_t, int64_t> Unevenness(const std::vector<int64_t>& load) {
  const int64_t mean =
      std::accumulate(load.begin(), load.end(), int64_t{0}) / static_cast<int64_t>(load.size());
  int64_t above = 0;
  for (const int64_t value : load) above += std::max(int64_t{0}, value - mean);
  return {*std::max_element(load.begin(), load.end()), above};
}

// Full rounds start at every worker once. The r units left start at even distances, k N / r rounded
// down: a worker is in floor or ceil of p r / N of these runs.
void AssignEvenRuns(absl::Span<const Kind::Member> units, int holders, Draft& draft) {
  const int workers = draft.workers();
  const size_t rest = units.size() % static_cast<size_t>(workers);
  std::vector<int> starts;
  std::vector<int> counts(static_cast<size_t>(workers));
  for (size_t k = 0; k < rest; ++k) {
    starts.push_back(static_cast<int>(k * static_cast<size_t>(workers) / rest));
    for (const int worker : Run(starts.back(), holders, workers)) {
      ++counts[static_cast<size_t>(worker)];
    }
  }
  const auto [least, most] = std::minmax_element(counts.begin(), counts.end());
  std::vector<int> longer;  // Workers that get one unit more than the others.
  for (int worker = 0; worker < workers && *least < *most; ++worker) {
    if (counts[static_cast<size_t>(worker)] == *most) longer.push_back(worker);
  }
  const int turn = LightestTurn(draft, longer);

  const size_t in_rounds = units.size() - rest;
  for (size_t j = 0; j < units.size(); ++j) {
    const int start = j < in_rounds ? static_cast<int>(j % static_cast<size_t>(workers))
                                    : starts[j - in_rounds] + turn;
    draft.Give(units[j], Run(start, holders, workers));
  }
}

// Each run begins where the last one ended, so counts differ by at most one whatever the lengths.
// Units of equal coverage do so only after the full rounds: there every start gets floor(c N)
// workers, and a round's units that have one more reach one worker further each, the next ones in
// turn.
void AssignUnevenRuns(absl::Span<const Kind::Member> units, Draft& draft) {
  const int workers = draft.workers();
  std::vector<int> lengths = WholeHolders(units, workers);
  const int64_t total = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
  // The workers that get one unit more than the others are one run.
  int next = LightestTurn(draft, Range(static_cast<int>(total % workers)));
  size_t dealt = 0;

  if (EqualShares(units)) {
    const double share = units.front().share;
    const int64_t count = static_cast<int64_t>(units.size());
    const int64_t rounds = count / workers;
    const int64_t rest = count % workers;
    const int whole = static_cast<int>(std::floor(share));
    const int64_t longer = total - whole * count;
    const int64_t longer_in_rest = longer * rest / count;
    const int64_t longer_in_rounds = longer - longer_in_rest;
    const auto spread = [](int64_t amount, int64_t part, int64_t parts) {
      return amount * (part + 1) / parts - amount * part / parts;
    };
    for (int64_t round = 0; round < rounds; ++round) {
      std::vector<int> length(static_cast<size_t>(workers), whole);
      for (int64_t i = spread(longer_in_rounds, round, rounds); i > 0; --i) {
        ++length[static_cast<size_t>((next - whole + workers) % workers)];
        next = (next + 1) % workers;
      }
      for (int start = 0; start < workers; ++start) {
        draft.Give(units[dealt++], Run(start, length[static_cast<size_t>(start)], workers));
      }
    }
    for (int64_t k = 0; k < rest; ++k) {
      lengths[dealt + static_cast<size_t>(k)] =
          whole + static_cast<int>(spread(longer_in_rest, k, rest));
    }
  }
  for (; dealt < units.size(); ++dealt) {
    draft.Give(units[dealt], Run(next, lengths[dealt], workers));
    next = (next + lengths[dealt]) % workers;
  }
}

}  // namespace

int Kind::EqualHolders() const {
  const double share = members.front().share;
  return EqualShares(members) && share == std::floor(share) ? static_cast<int>(share) : 0;
}

void Draft::Give(const Kind::Member& member, std::vector<int> to) {
  for (const int worker : to) load[static_cast<size_t>(worker)] += member.macs;
  holders[static_cast<size_t>(member.unit.value())] = std::move(to);
}

std::vector<int64_t> Draft::Excess() const {
  const int64_t least = *std::min_element(load.begin(), load.end());
  std::vector<int64_t> excess = load;
  for (int64_t& value : excess) value -= least;
  return excess;
}

void AssignEqualCounts(const Kind& kind, RandomStream& random, Draft& draft) {
  const std::vector<int> counts = WholeHolders(kind.members, draft.workers());
  const int64_t total = std::accumulate(counts.begin(), counts.end(), int64_t{0});
  const int64_t workers = draft.workers();

  std::vector<int> lightest = Range(draft.workers());
  Shuffle(lightest, random);
  std::stable_sort(lightest.begin(), lightest.end(), [&draft](int a, int b) {
    return draft.load[static_cast<size_t>(a)] < draft.load[static_cast<size_t>(b)];
  });
  std::vector<int64_t> need(static_cast<size_t>(workers), total / workers);
  for (int64_t i = 0; i < total % workers; ++i) {
    ++need[static_cast<size_t>(lightest[static_cast<size_t>(i)])];
  }

  // Needs differ by at most one, and taking the largest keeps it so: every need is met exactly.
  std::vector<int> first(need.size()), second(need.size());
  int64_t most = *std::max_element(need.begin(), need.end());
  for (size_t j = 0; j < kind.members.size(); ++j) {
    const size_t count = static_cast<size_t>(counts[j]);
    size_t firsts = 0;
    for (size_t worker = 0; worker < need.size(); ++worker) {  // without a branch: it is a lottery
      first[firsts] = second[worker - firsts] = static_cast<int>(worker);
      firsts += need[worker] == most ? 1 : 0;
    }
    std::vector<int> chosen;
    Draw(absl::MakeSpan(first).first(firsts), std::min(count, firsts), random, chosen);
    Draw(absl::MakeSpan(second).first(need.size() - firsts), count - chosen.size(), random, chosen);
    for (const int worker : chosen) --need[static_cast<size_t>(worker)];
    if (count >= firsts) --most;
    draft.Give(kind.members[j], std::move(chosen));
  }
}

void AssignCyclic(const Kind& kind, Draft& draft) {
  if (kind.EqualHolders() > 0) {
    AssignEvenRuns(kind.members, kind.EqualHolders(), draft);
  } else {
    AssignUnevenRuns(kind.members, draft);
  }
}

void AssignResolvable(const Kind& kind, Dealer& dealer, Draft& draft) {
  using Group = absl::Span<const Kind::Member>;
  std::vector<Group> groups;
  for (Group left = kind.members; !left.empty(); left.remove_prefix(groups.back().size())) {
    groups.push_back(left.subspan(0, static_cast<size_t>(dealer.group_size())));
  }
  // Those whose class matters for the loads first, while all classes can be chosen.
  std::stable_partition(groups.begin(), groups.end(), [](Group group) {
    return std::any_of(group.begin(), group.end(), [&group](const Kind::Member& member) {
      return member.macs != group.front().macs;
    });
  });
  for (const Group group : groups) dealer.Deal(group, draft);
}

std::vector<int> Dealer::SetOrder() {
  std::vector<int> order = Range(design_.sets());
  if (redraw_ != nullptr) {
    Shuffle(order, *redraw_);
  } else {
    // Turned from group to group, so that no worker always gets the first unit of each.
    std::rotate(order.begin(), order.begin() + dealt_ % design_.sets(), order.end());
  }
  return order;
}

// Lighter sets first; equal ones in the order of `ties`. With complements a set is what is left
// out: heavier ones first.
Dealer::Split Dealer::MakeSplit(int index, const std::vector<int>& ties,
                                const std::vector<int64_t>& load) const {
  Split split{design_.Class(index), ties};
  std::vector<int64_t> weight(static_cast<size_t>(design_.sets()));
  for (size_t worker = 0; worker < load.size(); ++worker) {
    weight[static_cast<size_t>(split.set_of[worker])] += complement_ ? -load[worker] : load[worker];
  }
  std::stable_sort(split.order.begin(), split.order.end(), [&weight](int a, int b) {
    return weight[static_cast<size_t>(a)] < weight[static_cast<size_t>(b)];
  });
  return split;
}

std::vector<int> Dealer::Holders(const Split& split, size_t position) const {
  std::vector<int> holders;
  for (size_t worker = 0; worker < split.set_of.size(); ++worker) {
    const bool in_set = split.set_of[worker] == split.order[position];
    if (in_set != complement_) holders.push_back(static_cast<int>(worker));
  }
  return holders;
}

// The load with these units dealt.
std::vector<int64_t> Dealer::With(std::vector<int64_t> load,
                                  const std::vector<Kind::Member>& members,
                                  const Split& split) const {
  for (size_t k = 0; k < members.size(); ++k) {
    for (const int worker : Holders(split, k)) {
      load[static_cast<size_t>(worker)] += members[k].macs;
    }
  }
  return load;
}

void Dealer::Deal(absl::Span<const Kind::Member> group, Draft& draft) {
  if (unused_.empty()) {
    unused_ = Range(design_.classes());
    if (redraw_ != nullptr) Shuffle(unused_, *redraw_);
  }
  const std::vector<int> ties = SetOrder();
  // Expensive units first: they go to light sets.
  std::vector<Kind::Member> members(group.begin(), group.end());
  std::stable_sort(members.begin(), members.end(),
                   [](const auto& a, const auto& b) { return a.macs > b.macs; });
  const bool level = group.size() == static_cast<size_t>(group_size()) &&
                     members.front().macs == members.back().macs;

  size_t taken = 0;
  Split best;
  if (level) {
    best = Split{design_.Class(unused_.front()), ties};  // Every class adds the same to everybody.
  } else {
    const std::vector<int64_t> before = draft.Excess();
    std::pair<int64_t, int64_t> best_unevenness;
    for (size_t i = 0; i < std::min(unused_.size(), kCandidates); ++i) {
      Split split = MakeSplit(unused_[i], ties, before);
      const int turns = design_.sets() <= kMostTurned ? design_.sets() : 1;
      for (int turn = 0; turn < turns; ++turn) {
        const std::pair<int64_t, int64_t> unevenness = Unevenness(With(before, members, split));
        if ((i == 0 && turn == 0) || unevenness < best_unevenness) {
          taken = i;
          best = split;
          best_unevenness = unevenness;
        }
        std::rotate(split.order.begin(), split.order.begin() + 1, split.order.end());
      }
    }
  }
  for (size_t k = 0; k < members.size(); ++k) draft.Give(members[k], Holders(best, k));
  unused_.erase(unused_.begin() + static_cast<std::ptrdiff_t>(taken));
  ++dealt_;
}

}  // namespace sdp

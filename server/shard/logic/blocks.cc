// Shard: how far each block is, for people. Pure looking.
#include <algorithm>
#include <set>

#include "server/shard/logic/shard.h"

namespace sdp {

std::vector<Incarnation> Shard::MissingOf(FragmentId id, const Owned& owned, Step step) const {
  const auto bound = bindings_.find(step);
  const auto round = owned.rounds.find(step);
  std::vector<Incarnation> missing;
  if (bound == bindings_.end() || bound->second.binding.closing) return missing;
  if (round != owned.rounds.end() && round->second.closed) return missing;
  for (const auto& [holder, leaf] : Leaves(bound->second, id)) {
    if (round == owned.rounds.end() || !round->second.sum.has(leaf)) missing.push_back(holder);
  }
  std::sort(missing.begin(), missing.end());
  return missing;
}

std::vector<Shard::BlockState> Shard::blocks(UnitId first, int64_t count) const {
  std::vector<BlockState> blocks;
  for (const FragmentId id : owned_) {
    const Fragment& fragment = options_.layout->fragment(id);
    const int64_t place = int64_t{fragment.unit.value()} - first.value();
    if (place < 0 || place >= count) continue;
    const Owned& owned = fragments_.at(id);
    if (blocks.empty() || blocks.back().unit != fragment.unit) {
      blocks.push_back({.unit = fragment.unit,
                        .oldest_version = owned.version,
                        .newest_version = owned.version,
                        .missing = {}});
    }
    BlockState& block = blocks.back();
    ++block.fragments;
    block.value_bytes += fragment.size * static_cast<int64_t>(sizeof(float));
    block.oldest_version = std::min(block.oldest_version, owned.version);
    block.newest_version = std::max(block.newest_version, owned.version);
    std::vector<Incarnation> missing = MissingOf(id, owned, owned.version);
    if (missing.empty()) continue;
    ++block.open_rounds;
    if (missing.size() <= block.missing.size()) continue;
    block.holders = static_cast<int64_t>(Leaves(bindings_.at(owned.version), id).size());
    block.contributions = block.holders - static_cast<int64_t>(missing.size());
    block.missing = std::move(missing);
  }
  return blocks;
}

std::vector<Incarnation> Shard::awaited(size_t most) const {
  std::set<Incarnation> all;
  const Step oldest = counts().oldest_version;
  for (const FragmentId id : owned_) {
    const Owned& owned = fragments_.at(id);
    if (owned.version != oldest) continue;
    for (const Incarnation holder : MissingOf(id, owned, oldest)) all.insert(holder);
    if (all.size() >= most) break;
  }
  std::vector<Incarnation> awaited(all.begin(), all.end());
  awaited.resize(std::min(awaited.size(), most));
  return awaited;
}

}  // namespace sdp

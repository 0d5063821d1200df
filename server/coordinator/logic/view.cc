#include "server/coordinator/logic/view.h"

#include <utility>

namespace sdp {

View::View(ViewId id, std::vector<Incarnation> members, std::vector<Rank> ranks,
           std::vector<int64_t> portions)
    : id_(id),
      members_(std::move(members)),
      ranks_(std::move(ranks)),
      portions_(std::move(portions)),
      begins_{0} {
  for (size_t rank = 0; rank < members_.size(); ++rank) {
    rank_of_.emplace(members_[rank], static_cast<int>(rank));
    begins_.push_back(begins_.back() + portions_[rank]);
  }
}

std::optional<int> View::RankOf(Incarnation member) const {
  const auto found = rank_of_.find(member);
  if (found == rank_of_.end()) return std::nullopt;
  return found->second;
}

std::pair<int64_t, int64_t> View::PortionOf(int rank) const {
  const auto index = static_cast<size_t>(rank);
  return {begins_[index], portions_[index]};
}

std::vector<Incarnation> NextMembers(const std::vector<Incarnation>& members,
                                     const absl::flat_hash_set<Incarnation>& leaving,
                                     const std::vector<Incarnation>& joining) {
  std::vector<Incarnation> next = members;
  const auto stays = [&](size_t rank) { return !leaving.contains(next[rank]); };
  size_t end = next.size();  // ranks from here on have moved down, or leave
  for (size_t rank = 0; rank < end; ++rank) {
    if (stays(rank)) continue;
    while (end > rank + 1 && !stays(end - 1)) --end;
    if (--end > rank) next[rank] = next[end];
  }
  next.resize(end);
  next.insert(next.end(), joining.begin(), joining.end());
  return next;
}

}  // namespace sdp

#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "common/base/ids.h"
#include "common/plan/plan.h"

namespace sdp {

// The members of a run from one change to the next, by rank, and how many samples of a step each
// computes. A value that never changes.
class View {
 public:
  // `ranks`: what a plan has to know of the members; `portions`: each one's samples of a step.
  // Precondition: all three are of one length.
  View(ViewId id, std::vector<Incarnation> members, std::vector<Rank> ranks,
       std::vector<int64_t> portions);

  ViewId id() const { return id_; }
  const std::vector<Incarnation>& members() const { return members_; }
  const std::vector<Rank>& ranks() const { return ranks_; }
  const std::vector<int64_t>& portions() const { return portions_; }
  int size() const { return static_cast<int>(members_.size()); }
  std::optional<int> RankOf(Incarnation member) const;
  int64_t samples() const { return begins_.back(); }  // of a step
  // Which of a step's samples are the rank's, as {first, count}: consecutive, in rank order.
  std::pair<int64_t, int64_t> PortionOf(int rank) const;

 private:
  ViewId id_;
  std::vector<Incarnation> members_;
  std::vector<Rank> ranks_;
  std::vector<int64_t> portions_;
  std::vector<int64_t> begins_;  // [members + 1] sums of the portions before
  absl::flat_hash_map<Incarnation, int> rank_of_;
};

// Who follows `members` (protocol.md section 1): those that stay keep their ranks, the highest of
// them fill the holes of those that leave, and `joining` come after, in their order.
std::vector<Incarnation> NextMembers(const std::vector<Incarnation>& members,
                                     const absl::flat_hash_set<Incarnation>& leaving,
                                     const std::vector<Incarnation>& joining);

}  // namespace sdp

#pragma once

#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "common/base/ids.h"

namespace sdp {

// The members of a run from one change to the next, by rank. A value that never changes.
class View {
 public:
  View(ViewId id, std::vector<Incarnation> members);

  ViewId id() const { return id_; }
  const std::vector<Incarnation>& members() const { return members_; }
  int size() const { return static_cast<int>(members_.size()); }
  std::optional<int> RankOf(Incarnation member) const;

 private:
  ViewId id_;
  std::vector<Incarnation> members_;
  absl::flat_hash_map<Incarnation, int> ranks_;
};

// Who follows `members` (protocol.md section 1): those that stay keep their ranks, the highest of
// them fill the holes of those that leave, and `joining` come after, in their order.
std::vector<Incarnation> NextMembers(const std::vector<Incarnation>& members,
                                     const absl::flat_hash_set<Incarnation>& leaving,
                                     const std::vector<Incarnation>& joining);

}  // namespace sdp

#include "server/coordinator/logic/view.h"

#include <vector>

#include "gtest/gtest.h"

namespace sdp {
namespace {

std::vector<Incarnation> Members(std::initializer_list<int64_t> numbers) {
  std::vector<Incarnation> members;
  for (const int64_t number : numbers) members.push_back(Incarnation(number));
  return members;
}

TEST(ViewTest, RankOf_MembersAndStrangers) {
  const View view(ViewId(3), Members({7, 2, 9}), {{"a", 0}, {"b", 0}, {"c", 0}}, {5, 0, 4});
  EXPECT_EQ(view.RankOf(Incarnation(2)), 1);
  EXPECT_EQ(view.RankOf(Incarnation(9)), 2);
  EXPECT_FALSE(view.RankOf(Incarnation(3)).has_value());
}

TEST(ViewTest, PortionOf_IsOneAfterTheOther) {
  const View view(ViewId(3), Members({7, 2, 9}), {{"a", 0}, {"b", 0}, {"c", 0}}, {5, 0, 4});
  EXPECT_EQ(view.samples(), 9);
  EXPECT_EQ(view.PortionOf(0), (std::pair<int64_t, int64_t>(0, 5)));
  EXPECT_EQ(view.PortionOf(1), (std::pair<int64_t, int64_t>(5, 0)));
  EXPECT_EQ(view.PortionOf(2), (std::pair<int64_t, int64_t>(5, 4)));
}

TEST(NextMembersTest, Joiners_ComeAfterInTheirOrder) {
  EXPECT_EQ(NextMembers(Members({1, 2}), {}, Members({9, 5})), Members({1, 2, 9, 5}));
}

TEST(NextMembersTest, TheHighestFillsAHole_OthersKeepTheirRanks) {
  EXPECT_EQ(NextMembers(Members({1, 2, 3, 4, 5}), {Incarnation(2)}, {}), Members({1, 5, 3, 4}));
  EXPECT_EQ(NextMembers(Members({1, 2, 3, 4, 5}), {Incarnation(1), Incarnation(2)}, {}),
            Members({5, 4, 3}));
}

TEST(NextMembersTest, TheHighestLeaves_NobodyMoves) {
  EXPECT_EQ(NextMembers(Members({1, 2, 3, 4}), {Incarnation(4)}, {}), Members({1, 2, 3}));
  EXPECT_EQ(NextMembers(Members({1, 2, 3, 4}), {Incarnation(3), Incarnation(4)}, {}),
            Members({1, 2}));
  EXPECT_EQ(NextMembers(Members({1, 2, 3, 4}), {Incarnation(1), Incarnation(4)}, Members({8})),
            Members({3, 2, 8}));
}

TEST(NextMembersTest, AllLeave_OnlyJoinersAreLeft) {
  EXPECT_EQ(NextMembers(Members({1, 2}), {Incarnation(1), Incarnation(2)}, Members({3})),
            Members({3}));
  EXPECT_TRUE(NextMembers(Members({1}), {Incarnation(1)}, {}).empty());
}

// Whoever leaves: nobody is there twice, and no more than needed move.
TEST(NextMembersTest, EverySubsetLeaves_TheLeastMove) {
  const std::vector<Incarnation> members = Members({1, 2, 3, 4, 5, 6});
  for (unsigned subset = 0; subset < 64; ++subset) {
    absl::flat_hash_set<Incarnation> leaving;
    for (size_t i = 0; i < members.size(); ++i) {
      if ((subset >> i & 1) != 0) leaving.insert(members[i]);
    }
    const std::vector<Incarnation> next = NextMembers(members, leaving, {});
    ASSERT_EQ(next.size(), members.size() - leaving.size());
    const absl::flat_hash_set<Incarnation> there(next.begin(), next.end());
    EXPECT_EQ(there.size(), next.size());
    size_t holes = 0;  // below the new size: each is filled once
    for (size_t rank = 0; rank < next.size(); ++rank) {
      EXPECT_FALSE(leaving.contains(next[rank]));
      if (leaving.contains(members[rank])) {
        ++holes;
      } else {
        EXPECT_EQ(next[rank], members[rank]) << "subset " << subset;
      }
    }
    EXPECT_LE(holes, leaving.size());
  }
}

}  // namespace
}  // namespace sdp

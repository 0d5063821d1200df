#include "common/base/ids.h"

#include <gtest/gtest.h>

#include <sstream>
#include <type_traits>

#include "absl/container/flat_hash_set.h"

namespace sdp {
namespace {

// Ids of different kinds neither convert nor compare: that is their purpose.
static_assert(!std::is_convertible_v<int32_t, UnitId>);
static_assert(!std::is_convertible_v<UnitId, int32_t>);
static_assert(!std::is_convertible_v<UnitId, FragmentId>);
static_assert(!std::is_constructible_v<UnitId, FragmentId>);

TEST(IdsTest, Default_IsZero) { EXPECT_EQ(Incarnation().value(), 0); }

TEST(IdsTest, OrderAndText_AreThoseOfTheValue) {
  EXPECT_LT(FragmentId(2), FragmentId(10));
  EXPECT_NE(Term(3), Term(4));
  std::ostringstream text;
  text << Generation(7);
  EXPECT_EQ(text.str(), "7");
}

TEST(IdsTest, HashSet_FindsEqualOnly) {
  const absl::flat_hash_set<ShardId> shards = {ShardId(0), ShardId(5), ShardId(5)};
  EXPECT_EQ(shards.size(), 2u);
  EXPECT_TRUE(shards.contains(ShardId(5)));
  EXPECT_FALSE(shards.contains(ShardId(1)));
}

}  // namespace
}  // namespace sdp

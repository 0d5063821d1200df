// What the coordinator's logic tells of the run.
#include <gmock/gmock.h>

#include <string>

#include "tests/coordinator/fixture.h"

namespace sdp {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

class StatusTest : public CoordinatorTest {};

TEST_F(StatusTest, BeforeAnyone_CountsNobody) {
  Coordinator c(options_);
  c.Start(now_);
  const RunStatus status = c.status(now_);
  EXPECT_THAT(status.members, IsEmpty());
  EXPECT_EQ(status.workers.all(), 0);
  EXPECT_EQ(status.view, ViewId());
  EXPECT_EQ(c.unit_status(UnitId(1)).holders, 0);
  EXPECT_THAT(c.unit_status(UnitId(1)).shards, ElementsAre(ShardId(0)));
}

TEST_F(StatusTest, States_FollowTheMember) {
  Coordinator c(options_);
  c.Start(now_);
  Settle(c, c.RegisterShard({"shard-0", "here:1", "cafe", 5}, now_));
  EXPECT_THAT(c.status(now_).shards.states, ElementsAre(Pair("starting", 1)));
  Settle(c, c.OnStepDone({ShardId(0), -1, 0}, now_));
  EXPECT_THAT(c.status(now_).shards.states, ElementsAre(Pair("serving", 1)));
  Register(c, "worker-1", 11);
  Register(c, "worker-0", 10);
  EXPECT_EQ(Ready(c, 1), absl::OkStatus());
  EXPECT_THAT(c.status(now_).workers.states,
              UnorderedElementsAre(Pair("preparing", 1), Pair("waiting to join", 1)));
  EXPECT_EQ(Ready(c, 2), absl::OkStatus());
  Begin(c, 1, 0);
  EXPECT_THAT(c.status(now_).workers.states, ElementsAre(Pair("training", 2)));
  Settle(c, c.Leave(Incarnation(1), now_));
  EXPECT_THAT(c.status(now_).workers.states,
              UnorderedElementsAre(Pair("leaving", 1), Pair("training", 1)));
}

TEST_F(StatusTest, MoreWorkersThanAreAskedFor_AreCountedAndNotListed) {
  Coordinator c(options_);
  Gather(c);
  now_ += absl::Seconds(7);
  Alive(c, {2});
  const RunStatus status = c.status(now_, /*most_workers=*/1);
  ASSERT_THAT(status.members, SizeIs(2));  // the shard, and the first by name
  EXPECT_EQ(status.members[1].name, "worker-0");
  EXPECT_EQ(status.workers.all(), 2);
  EXPECT_EQ(status.workers.longest_silence, absl::Seconds(7)) << "of the one that is not listed";
}

TEST_F(StatusTest, Units_SayWhoHoldsThem_AndMembersHowMany) {
  Coordinator c(options_);
  Gather(c);
  Begin(c, 1, 0);
  const RunStatus status = c.status(now_);
  EXPECT_GT(status.view, ViewId());
  int64_t held = 0;
  for (size_t unit = 0; unit < catalog_.units.size(); ++unit) {
    const UnitStatus of = c.unit_status(UnitId(static_cast<int32_t>(unit)));
    EXPECT_EQ(of.holders, catalog_.units[unit].shared ? 2 : 1);
    EXPECT_THAT(of.names, SizeIs(catalog_.units[unit].shared ? 0 : 1));
    held += of.holders;
  }
  EXPECT_EQ(status.members[1].units + status.members[2].units, held);
}

}  // namespace
}  // namespace sdp

#include "server/coordinator/logic/roster.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace sdp {
namespace {

TEST(RosterTest, FindsByNameAndIncarnationAndListsByName) {
  Roster roster;
  WorkerState& b = roster.Add({"b", "cafe", 12}, Incarnation(1), absl::UnixEpoch());
  WorkerState& a = roster.Add({"a", "cafe", 11}, Incarnation(2), absl::UnixEpoch());
  EXPECT_EQ(roster.Find("a"), &a);
  EXPECT_EQ(roster.Find(Incarnation(1)), &b);
  EXPECT_EQ(roster.Find("c"), nullptr);
  EXPECT_EQ(roster.Find(Incarnation(3)), nullptr);
  std::vector<std::string> names;
  for (const auto& [name, worker] : roster) names.push_back(name);
  EXPECT_EQ(names, (std::vector<std::string>{"a", "b"}));

  EXPECT_EQ(roster.Erase("b").registration.instance, 12u);
  EXPECT_EQ(roster.Find(Incarnation(1)), nullptr);
  EXPECT_EQ(roster.size(), 1u);
  // Another life under the name.
  WorkerState& again = roster.Add({"b", "cafe", 13}, Incarnation(3), absl::UnixEpoch());
  EXPECT_EQ(roster.Find(Incarnation(3)), &again);
}

TEST(RosterTest, CountsThoseThatAreReadyAndThoseThatStay) {
  Roster roster;
  WorkerState& a = roster.Add({"a", "cafe", 11}, Incarnation(1), absl::UnixEpoch());
  WorkerState& b = roster.Add({"b", "cafe", 12}, Incarnation(2), absl::UnixEpoch());
  EXPECT_EQ(roster.ready(), 0);
  roster.SetReady(a);
  roster.SetReady(a);  // twice is once
  roster.SetLeaving(b, true);
  roster.SetReady(b);
  EXPECT_EQ(roster.ready(), 2);
  EXPECT_EQ(roster.staying(), 1);
  roster.SetLeaving(b, false);
  EXPECT_EQ(roster.staying(), 2);
  roster.Erase("a");
  EXPECT_EQ(roster.ready(), 1);
  EXPECT_EQ(roster.staying(), 1);
}

}  // namespace
}  // namespace sdp

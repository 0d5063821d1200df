#include "common/process/lives.h"

#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sdp {
namespace {

using ::testing::ElementsAre;
using Script = std::vector<absl::Status>;

// Ends as the script says.
struct Member {
  explicit Member(absl::Status end) : status(std::move(end)) {}
  absl::Status Run() { return status; }
  absl::Status status;
};
using MemberLives = Lives<Member>;

TEST(LivesTest, AbortedComesBack_AnythingElseIsTheEnd) {
  const Script script = {absl::AbortedError("excluded"), absl::AbortedError("gone back"),
                         absl::UnavailableError("nobody there")};
  size_t made = 0;
  MemberLives lives([&] { return std::make_unique<Member>(script.at(made++)); });
  std::vector<std::string> told;
  EXPECT_EQ(lives.Run([&](const absl::Status& why) { told.emplace_back(why.message()); }),
            script.back());
  EXPECT_THAT(told, ElementsAre("excluded", "gone back"));
  EXPECT_EQ(made, 3u);
}

TEST(LivesTest, AfterLeave_NoneComes) {
  int made = 0;
  MemberLives* all = nullptr;
  MemberLives lives([&] {
    if (++made == 2) all->Leave("SIGTERM", [](Member&) { FAIL() << "there is none"; });
    return std::make_unique<Member>(absl::AbortedError("excluded"));
  });
  all = &lives;
  EXPECT_EQ(lives.Run([](const absl::Status&) {}), absl::CancelledError("SIGTERM"));
  EXPECT_EQ(made, 2);
}

}  // namespace
}  // namespace sdp

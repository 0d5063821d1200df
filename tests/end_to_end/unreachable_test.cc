// A program of its own: it waits half a minute, in which others may run.
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/end_to_end/train_fixture.h"
#include "tests/places/places.h"

namespace sdp {
namespace {

using ::testing::HasSubstr;

class UnreachableTest : public TrainFixture {};

TEST_F(UnreachableTest, Coordinator_IsNamed) {
  const Outcome alone = Shell(absl::StrCat(Program("sdp-worker"), " --config ", Config(),
                                           " --set run.dir=", RunDir("hand").string(),
                                           " --coordinator 127.0.0.1:1 --name worker-0"));
  EXPECT_EQ(alone.exit_status, 1);
  EXPECT_THAT(alone.output, HasSubstr("127.0.0.1:1"));
}

}  // namespace
}  // namespace sdp

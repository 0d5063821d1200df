#include "common/control/check_request.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "proto/coordinator.pb.h"

namespace sdp {
namespace {

TEST(CheckRequestTest, WhatNoMemberSends_Invalid) {
  proto::ReducedReport reduced;
  reduced.add_squares(1);
  reduced.add_squares(std::numeric_limits<double>::quiet_NaN());
  EXPECT_TRUE(absl::IsInvalidArgument(CheckRequest(reduced)));
  reduced.set_squares(1, std::numeric_limits<double>::infinity());
  EXPECT_TRUE(absl::IsInvalidArgument(CheckRequest(reduced)));

  proto::WorkerStepReport step;
  step.set_terms(-2);
  const absl::Status status = CheckRequest(step);
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_NE(status.message().find("terms: -2"), std::string::npos) << status;

  proto::HeartbeatRequest heartbeat;
  heartbeat.set_phase(std::string(1001, 'x'));
  const absl::Status text = CheckRequest(heartbeat);
  EXPECT_TRUE(absl::IsInvalidArgument(text));
  EXPECT_LT(text.message().size(), 200u);  // an error is no place for a peer's megabyte
}

TEST(CheckRequestTest, WhatMembersSend_Ok) {
  proto::StepDoneReport done;
  done.set_generation(1);
  done.set_step(-1);  // the start state
  EXPECT_TRUE(CheckRequest(done).ok());
  proto::BeginStepRequest begin;
  begin.set_known_plan(-1);
  EXPECT_TRUE(CheckRequest(begin).ok());
  proto::HeartbeatRequest heartbeat;
  heartbeat.set_phase(std::string(1000, 'x'));
  EXPECT_TRUE(CheckRequest(heartbeat).ok());
}

}  // namespace
}  // namespace sdp

#include "common/control/convert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

namespace sdp {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kLarge = 0xfedcba9876543210;  // does not fit into a signed number
const double kInexact = 0.1 + 0.2;

// Through bytes, as on the wire.
template <typename Message>
Message OverTheWire(const Message& message) {
  Message copy;
  EXPECT_TRUE(copy.ParseFromString(message.SerializeAsString()));
  return copy;
}

TEST(ConvertTest, Registration_BadName_InvalidArgument) {
  for (const std::string& name :
       std::vector<std::string>{"", "a b", "../up", "new\nline", std::string(101, 'x')}) {
    proto::RegisterWorkerRequest worker;
    worker.set_name(name);
    EXPECT_EQ(FromProto(worker).status().code(), absl::StatusCode::kInvalidArgument) << name;
    proto::RegisterShardRequest shard;
    shard.set_name(name);
    shard.set_address("127.0.0.1:1");
    EXPECT_EQ(FromProto(shard).status().code(), absl::StatusCode::kInvalidArgument) << name;
  }
}

TEST(ConvertTest, Registration_LongName_IsNotRepeatedInTheError) {
  proto::RegisterWorkerRequest worker;
  worker.set_name(std::string(1 << 20, 'x'));
  EXPECT_LT(FromProto(worker).status().message().size(), 200u);
}

TEST(ConvertTest, ShardRegistration_BadAddress_InvalidArgument) {
  proto::RegisterShardRequest shard;
  shard.set_name("shard-0");
  EXPECT_EQ(FromProto(shard).status().code(), absl::StatusCode::kInvalidArgument);
  shard.set_address("host :1");
  EXPECT_THAT(std::string(FromProto(shard).status().message()), HasSubstr("shard-0: \"host :1\""));
}

TEST(ConvertTest, ShardRegistration_RoundTrip) {
  const auto got =
      FromProto(OverTheWire(ToProto(ShardRegistration{"shard-0", "unix:/tmp/s", "00ff", kLarge})));
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->name, "shard-0");
  EXPECT_EQ(got->address, "unix:/tmp/s");
  EXPECT_EQ(got->config_hash, "00ff");
  EXPECT_EQ(got->instance, kLarge);
}

TEST(ConvertTest, ShardAdmission_RoundTrip) {
  const StartState start{70, "/run/checkpoints/step-70", "/init.safetensors", {1, 0.75}};
  const ShardAdmission got = FromProto(OverTheWire(ToProto(
      ShardAdmission{ShardId(2), 3, Generation(4), Term(5), start, "/run/checkpoints", 1000})));
  EXPECT_EQ(got.start, start);
  EXPECT_EQ(got.checkpoints, "/run/checkpoints");
  EXPECT_EQ(got.steps, 1000);
  EXPECT_EQ(got.shard, ShardId(2));
  EXPECT_EQ(got.shards, 3);
  EXPECT_EQ(got.generation, Generation(4));
  EXPECT_EQ(got.term, Term(5));
}

TEST(ConvertTest, WorkerRegistration_RoundTrip) {
  const auto got = FromProto(OverTheWire(ToProto(WorkerRegistration{"worker-10", "00ff", kLarge})));
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->name, "worker-10");
  EXPECT_EQ(got->config_hash, "00ff");
  EXPECT_EQ(got->instance, kLarge);
}

TEST(ConvertTest, WorkerAdmission_RoundTrip) {
  const WorkerAdmission want{Incarnation(7), Generation(1), Term(2),
                             {"a:1", "b:2"}, {1, kInexact}, {int64_t{1} << 40, 0, 7}};
  const WorkerAdmission got = FromProto(OverTheWire(ToProto(want)));
  EXPECT_EQ(got.incarnation, want.incarnation);
  EXPECT_EQ(got.generation, want.generation);
  EXPECT_EQ(got.term, want.term);
  EXPECT_EQ(got.shards, want.shards);
  EXPECT_EQ(got.coverage, want.coverage);
  EXPECT_EQ(got.reshuffles, want.reshuffles);
}

TEST(ConvertTest, DataSummary_RoundTrip) {
  const DataSummary want{10, kLarge, 20, kLarge - 1};
  const auto message = OverTheWire(ToProto(Incarnation(3), want));
  EXPECT_EQ(message.worker(), 3);
  EXPECT_EQ(FromProto(message), want);
}

WorkerBinding SomeBinding() {
  WorkerBinding binding;
  binding.generation = Generation(1);
  binding.view = ViewId(2);
  binding.term = Term(3);
  binding.step = 4;
  binding.plan = 5;
  binding.portion = {{3, 2}, {int64_t{1} << 40, 6}};
  binding.micro_batch = 7;
  binding.evaluations = {{4, ViewId(2), 8, 9}, {3, ViewId(1), 0, 8}};
  return binding;
}

TEST(ConvertTest, WorkerBinding_RoundTrip) {
  WorkerBinding want = SomeBinding();
  want.units = std::make_shared<std::vector<UnitFactor>>(
      std::vector<UnitFactor>{{UnitId(0), 1}, {UnitId(9), kInexact}});
  const WorkerBinding got = FromProto(OverTheWire(ToProto(want)));
  EXPECT_EQ(got.generation, want.generation);
  EXPECT_EQ(got.view, want.view);
  EXPECT_EQ(got.term, want.term);
  EXPECT_EQ(got.step, want.step);
  EXPECT_EQ(got.plan, want.plan);
  ASSERT_NE(got.units, nullptr);
  EXPECT_EQ(*got.units, *want.units);
  EXPECT_EQ(got.portion, want.portion);
  EXPECT_EQ(got.micro_batch, want.micro_batch);
  EXPECT_EQ(got.evaluations, want.evaluations);
  EXPECT_FALSE(got.diagnose);
  EXPECT_FALSE(got.closing);
  EXPECT_FALSE(got.finished);
}

TEST(ConvertTest, WorkerBinding_UnitsAsBeforeAndNoUnits_StayDifferent) {
  WorkerBinding binding = SomeBinding();
  binding.diagnose = binding.closing = binding.finished = true;
  const WorkerBinding as_before = FromProto(OverTheWire(ToProto(binding)));
  EXPECT_EQ(as_before.units, nullptr);
  EXPECT_TRUE(as_before.diagnose);
  EXPECT_TRUE(as_before.closing);
  EXPECT_TRUE(as_before.finished);
  binding.units = std::make_shared<std::vector<UnitFactor>>();
  const WorkerBinding none = FromProto(OverTheWire(ToProto(binding)));
  ASSERT_NE(none.units, nullptr);
  EXPECT_TRUE(none.units->empty());
}

TEST(ConvertTest, Reduced_RoundTrip) {
  const Reduced got =
      FromProto(OverTheWire(ToProto(Reduced{ShardId(1), 2, {kInexact, 0, 1e300}, {4, kInexact}})));
  EXPECT_EQ(got.shard, ShardId(1));
  EXPECT_EQ(got.step, 2);
  EXPECT_EQ(got.squares, (std::vector<double>{kInexact, 0, 1e300}));
  EXPECT_EQ(got.holder_squares, (std::vector<double>{4, kInexact}));
  EXPECT_FALSE(got.not_finite.has_value());
  Reduced bad{ShardId(1), 2, {0}, {}};
  bad.not_finite = NotFiniteReport{"shard-1", 2, "the loss", Incarnation(7)};
  const Reduced back = FromProto(OverTheWire(ToProto(bad)));
  ASSERT_TRUE(back.not_finite.has_value());
  EXPECT_EQ(back.not_finite->member, "shard-1");
  EXPECT_EQ(back.not_finite->step, 2);
  EXPECT_EQ(back.not_finite->what, "the loss");
  EXPECT_EQ(back.not_finite->worker, Incarnation(7));
}

TEST(ConvertTest, Diagnosed_RoundTrip) {
  const Diagnosed want{ShardId(1), 2, {{int64_t{1} << 40, kInexact, 1e300}, {0, 0, 0}, {3, -1, 2}}};
  const Diagnosed got = FromProto(OverTheWire(ToProto(want)));
  EXPECT_EQ(got.shard, want.shard);
  EXPECT_EQ(got.step, want.step);
  EXPECT_EQ(got.fragments, want.fragments);
}

TEST(ConvertTest, StepDone_OfTheStartState_RoundTrip) {
  const StepDone got =
      FromProto(OverTheWire(ToProto(StepDone{ShardId(1), -1, 3, int64_t{1} << 40, 7})));
  EXPECT_EQ(got.shard, ShardId(1));
  EXPECT_EQ(got.step, -1);
  EXPECT_EQ(got.uncovered, 3);
  EXPECT_EQ(got.peak_memory_bytes, int64_t{1} << 40);
  EXPECT_EQ(got.allocated_peak_bytes, 7);
}

TEST(ConvertTest, StateHashes_RoundTrip) {
  const StateHashes got =
      FromProto(OverTheWire(ToProto(StateHashes{ShardId(1), 2, {kLarge, 0, 5}})));
  EXPECT_EQ(got.shard, ShardId(1));
  EXPECT_EQ(got.step, 2);
  EXPECT_EQ(got.hashes, (std::vector<uint64_t>{kLarge, 0, 5}));
}

TEST(ConvertTest, CheckpointPart_RoundTrip) {
  const CheckpointPart want{
      ShardId(1),
      500,
      "",
      {"a.safetensors", 1000, {{FragmentId(3), 10, 500, kLarge, {kLarge, 1}}}}};
  const CheckpointPart got = FromProto(OverTheWire(ToProto(want)));
  EXPECT_EQ(got.shard, want.shard);
  EXPECT_EQ(got.step, want.step);
  EXPECT_EQ(got.error, "");
  EXPECT_EQ(got.file, want.file);
  EXPECT_EQ(FromProto(OverTheWire(ToProto(CheckpointPart{ShardId(1), 5, "full", {}}))).error,
            "full");
}

TEST(ConvertTest, StepReport_RoundTrip) {
  StepReport want;
  want.worker = Incarnation(3);
  want.step = 4;
  want.loss_sum = std::numeric_limits<double>::infinity();
  want.terms = 5;
  want.pull = absl::Nanoseconds(1);
  want.forward = absl::Seconds(2);
  want.backward = absl::Hours(3);
  want.push = absl::Nanoseconds(4);
  want.pulled_bytes = int64_t{1} << 40;
  want.pushed_bytes = 7;
  want.peak_memory_bytes = 8;
  want.allocated_peak_bytes = 9;
  want.ledger = {.now = {1, 2, 3, 4, 5}, .peak = {6, 7, 8, 9, int64_t{1} << 41}};
  const StepReport got = FromProto(OverTheWire(ToProto(want)));
  EXPECT_EQ(got.worker, want.worker);
  EXPECT_EQ(got.step, want.step);
  EXPECT_EQ(got.loss_sum, want.loss_sum);
  EXPECT_EQ(got.terms, want.terms);
  EXPECT_EQ(got.pull, want.pull);
  EXPECT_EQ(got.forward, want.forward);
  EXPECT_EQ(got.backward, want.backward);
  EXPECT_EQ(got.push, want.push);
  EXPECT_EQ(got.pulled_bytes, want.pulled_bytes);
  EXPECT_EQ(got.pushed_bytes, want.pushed_bytes);
  EXPECT_EQ(got.peak_memory_bytes, want.peak_memory_bytes);
  EXPECT_EQ(got.allocated_peak_bytes, want.allocated_peak_bytes);
  EXPECT_EQ(got.ledger, want.ledger);
}

TEST(ConvertTest, EvaluationReport_CorrectIsThereOrNot) {
  const auto carried = [](std::optional<int64_t> correct) {
    EvaluationReport report;
    report.correct = correct;
    return FromProto(OverTheWire(ToProto(report))).correct;
  };
  EXPECT_EQ(carried(std::nullopt), std::nullopt);
  EXPECT_EQ(carried(0), 0);
  EXPECT_EQ(carried(7), 7);
}

TEST(ConvertTest, EvaluationReport_RoundTrip) {
  const EvaluationReport got =
      FromProto(OverTheWire(ToProto(EvaluationReport{Incarnation(3), 4, kInexact, 5, 2, 9})));
  EXPECT_EQ(got.worker, Incarnation(3));
  EXPECT_EQ(got.step, 4);
  EXPECT_EQ(got.loss_sum, kInexact);
  EXPECT_EQ(got.terms, 5);
  EXPECT_EQ(got.first, 9);
}

TEST(ConvertTest, NotFiniteReport_RoundTrip) {
  NotFiniteReport want;
  want.member = "shard-1";
  want.step = 4;
  want.what = "the gradient of fragment 17";
  want.worker = Incarnation(3);
  const NotFiniteReport got = FromProto(OverTheWire(ToProto(want)));
  EXPECT_EQ(got.member, want.member);
  EXPECT_EQ(got.step, want.step);
  EXPECT_EQ(got.what, want.what);
  EXPECT_EQ(got.worker, want.worker);
}

}  // namespace
}  // namespace sdp

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "tests/shard_service/fixture.h"
#include "tests/shard_service/raw_stream.h"

// What an enemy can do to a shard over its sockets: be refused, or use up what one peer may, while
// a worker beside it trains on. Worker 1 keeps to the protocol; 2 is a member too, and hostile.
namespace sdp {
namespace {

using ::testing::HasSubstr;
using Seen = TestWorker::Seen;

constexpr int kSmall = 3;  // fragment of 301 elements
constexpr int kFragments = 4;
const std::vector<int> kAll = {0, 1, 2, 3};
constexpr int64_t kLargeBytes = 4 * kTestFragment;

int64_t SizeOf(int fragment) { return fragment == kSmall ? 301 : kTestFragment; }

int64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t size = 0, resident = 0;
  statm >> size >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

class HostileShardTest : public ::testing::Test {
 protected:
  void Start(const ShardService::Options& limits = {}) {
    shard_ = std::make_unique<TestShard>(&catalog_, &layout_, "127.0.0.1:0", limits);
    shard_->Begin();
  }
  const std::string& address() const { return shard_->address(); }

  // A whole step of worker 1, who alone holds everything.
  void TrainStep(TestWorker& worker, Step step) {
    shard_->Bind(step, 1, false, 2);
    worker.Pull(step, kAll);
    ASSERT_TRUE(worker.Await([&](const Seen& seen) {
      return std::all_of(kAll.begin(), kAll.end(), [&](int f) {
        return seen.values.contains({step, f});
      });
    }));
    for (int f = 0; f < kFragments; ++f) worker.Push(step, f, 1, SizeOf(f));
    ASSERT_TRUE(shard_->link().AwaitDone(step));
  }

  // Asks the shard until its status is as wanted; each answer is one round trip.
  ::testing::AssertionResult AwaitStatus(
      const std::function<bool(const proto::ShardStatus&)>& wanted) {
    const absl::Time deadline = absl::Now() + kTestDeadline;
    proto::ShardStatus status;
    do {
      status = shard_->Status();
      if (wanted(status)) return ::testing::AssertionSuccess();
    } while (absl::Now() < deadline);
    return ::testing::AssertionFailure() << status.DebugString();
  }

  // The first part of a large fragment of worker 2.
  static FrameHeader FirstPart(int fragment, Step step = 0) {
    return PushHeader(TestWorker::Key(step, fragment, 8, 2), kTestFragment, WireType::kF32);
  }

  const Catalog catalog_ = TestCatalog();
  const Layout layout_{catalog_, kTestFragment};
  std::unique_ptr<TestShard> shard_;
};

TEST_F(HostileShardTest, Strangers_AreRefused_AndTakeNobodysPlace) {
  Start();
  shard_->Bind(0, 1, false, 2);
  TestWorker worker(&layout_, {address()});
  ASSERT_TRUE(worker.AwaitConnected());
  worker.Pull(0, {kSmall});
  ASSERT_TRUE(worker.Await([](const Seen& seen) { return seen.values_seen == 1; }));

  const StreamName good = TestName(1);
  StreamName other_generation = good, other_process = good;
  other_generation.generation = Generation(2);
  other_process.instance = 5;
  for (const std::string method : {"Push", "Pull"}) {
    const auto refused = [&](const std::string& name) {
      return RawStream(address(), method, name).AwaitClosed();
    };
    EXPECT_TRUE(absl::IsInvalidArgument(refused("")));
    EXPECT_TRUE(absl::IsInvalidArgument(refused("1.1")));
    EXPECT_TRUE(absl::IsInvalidArgument(refused("1.-1.0000000000000001")));
    EXPECT_TRUE(absl::IsInvalidArgument(refused(std::string(1000, '7'))));
    EXPECT_TRUE(absl::IsAborted(refused(StreamNameText(other_generation))));
    EXPECT_TRUE(absl::IsFailedPrecondition(refused(StreamNameText(other_process))));
  }
  TrainStep(worker, 0);
  worker.Await([](const Seen& seen) {
    EXPECT_EQ(seen.disconnected.size(), 0u);
    return true;
  });
  EXPECT_EQ(shard_->Status().pull_streams(), 1);
}

TEST_F(HostileShardTest, FloodOfStreams_BeforeTheFirstBinding_IsBounded) {
  ShardService::Options limits;
  limits.waiting_streams = 16;
  Start(limits);
  std::vector<std::unique_ptr<RawStream>> flood;
  // One connection has 128 calls at most: the others wait in the flooder's own process.
  for (int i = 0; i < 300; ++i) {
    flood.push_back(std::make_unique<RawStream>(
        address(), "Pull", StreamName{Generation(1), Incarnation(1 + i % 3), 7}));
  }
  ASSERT_TRUE(AwaitStatus([](const auto& status) { return status.waiting_streams() == 16; }));
  const absl::Status why = flood[0]->AwaitClosed();
  EXPECT_TRUE(absl::IsResourceExhausted(why)) << why;

  TestWorker worker(&layout_, {address()});
  ASSERT_TRUE(worker.AwaitConnected());
  TrainStep(worker, 0);
  EXPECT_TRUE(AwaitStatus([](const auto& status) {
    return status.waiting_streams() < 16 && status.pull_streams() == 1;
  }));
  // Of another process than the member of that incarnation; those of newer ones may yet join.
  EXPECT_TRUE(absl::IsFailedPrecondition(flood[297]->AwaitClosed()));
}

// A worker is connected before it is a member. Excluded, it is out for good.
TEST_F(HostileShardTest, AJoinersStreams_Wait_AnExcludedOnes_End) {
  ShardService::Options limits;
  limits.waiting_streams = 4;
  Start(limits);
  shard_->Bind(0, 1);
  RawStream joiner(address(), "Push", TestName(2));
  ASSERT_TRUE(AwaitStatus([](const auto& status) { return status.waiting_streams() == 1; }));
  shard_->Bind(1, 2);
  ASSERT_TRUE(AwaitStatus([](const auto& status) {
    return status.waiting_streams() == 0 && status.push_streams() == 1;
  }));
  EXPECT_EQ(shard_->Exclude(1, 2), absl::OkStatus());
  EXPECT_TRUE(absl::IsFailedPrecondition(joiner.AwaitClosed()));
  const absl::Status again = RawStream(address(), "Push", TestName(2)).AwaitClosed();
  EXPECT_TRUE(absl::IsFailedPrecondition(again));
  EXPECT_THAT(again.message(), HasSubstr("2 is no member"));
}

TEST_F(HostileShardTest, BeforeTheFirstBinding_NoGradientAndNoEndlessAsking) {
  Start();
  RawStream push(address(), "Push", TestName(2));
  push.Send(FirstPart(0), std::string(1000, '\0'));
  EXPECT_TRUE(absl::IsFailedPrecondition(push.AwaitClosed()));

  RawStream headers(address(), "Push", TestName(2));
  while (headers.Send(PushHeader(TestWorker::Key(0, kSmall, 0, 2), 0, WireType::kF32), ""))
    continue;
  EXPECT_TRUE(absl::IsResourceExhausted(headers.AwaitClosed()));

  RawStream pull(address(), "Pull", TestName(2));
  while (pull.SendWant(TestWorker::Key(0, 0, 0, 2), {FragmentId(0), FragmentId(1)})) continue;
  EXPECT_TRUE(absl::IsResourceExhausted(pull.AwaitClosed()));
  EXPECT_EQ(shard_->Status().incoming_bytes(), 0);
}

TEST_F(HostileShardTest, HalfAFragment_HoldsItsOwnMemoryOnly) {
  Start();
  shard_->Bind(0, 2);
  TestWorker worker(&layout_, {address()});
  ASSERT_TRUE(worker.AwaitConnected());
  auto half = std::make_unique<RawStream>(address(), "Push", TestName(2));
  half->Send(FirstPart(0), std::string(1000, '\0'));
  ASSERT_TRUE(
      AwaitStatus([](const auto& status) { return status.incoming_bytes() == kLargeBytes; }));
  worker.Pull(0, kAll);
  for (const int f : kAll) worker.Push(0, f, 1, SizeOf(f));
  ASSERT_TRUE(worker.Await([](const Seen& seen) {
    return seen.values_seen == kFragments && seen.answers.size() == kFragments;
  }));
  half = nullptr;
  EXPECT_TRUE(AwaitStatus([](const auto& status) { return status.incoming_bytes() == 0; }));
  RawStream again(address(), "Push", TestName(2));
  for (const int f : kAll) again.SendFragment(TestWorker::Key(0, f, 0, 2), {});
  EXPECT_TRUE(shard_->link().AwaitDone(0));
}

TEST_F(HostileShardTest, ManyHalves_RetryAfter) {
  ShardService::Options limits;
  limits.worker_bytes = 2 * kLargeBytes;
  Start(limits);
  shard_->Bind(0, 2);
  RawStream push(address(), "Push", TestName(2));
  for (int f = 0; f < 3; ++f) push.Send(FirstPart(f), std::string(1000, '\0'));
  const auto [header, detail] = push.AwaitFrame();
  EXPECT_EQ(header.answer, Answer::kRetryAfter);
  EXPECT_EQ(header.fragment, FragmentId(2));
  EXPECT_LE(shard_->Status().incoming_bytes(), 2 * kLargeBytes);
}

TEST_F(HostileShardTest, AllTogether_HaveALimitToo) {
  ShardService::Options limits;
  limits.incoming_bytes = 2 * kLargeBytes;
  Start(limits);
  shard_->Bind(0, 3);
  std::vector<std::unique_ptr<RawStream>> streams;
  for (int w = 1; w <= 3; ++w) {
    streams.push_back(std::make_unique<RawStream>(address(), "Push", TestName(w)));
    FrameHeader header = PushHeader(TestWorker::Key(0, 0, 8, w), kTestFragment, WireType::kF32);
    streams.back()->Send(header, std::string(1000, '\0'));
    ASSERT_TRUE(AwaitStatus([&](const auto& status) {
      return status.incoming_bytes() == std::min(w, 2) * kLargeBytes;
    }));
  }
  EXPECT_EQ(streams.back()->AwaitFrame().first.answer, Answer::kRetryAfter);
}

TEST_F(HostileShardTest, AsksWithoutReading_IsCutOff) {
  Start();
  TestWorker worker(&layout_, {address()});
  ASSERT_TRUE(worker.AwaitConnected());
  shard_->Bind(0, 1, false, 2);
  // A writer that reads nothing may not hear of its end before its own deadline.
  RawStream pull(address(), "Pull", TestName(2), absl::Seconds(5));
  // Worker 2 holds nothing: each of these is refused, with a text.
  const std::vector<FragmentId> some(200, FragmentId(0));
  while (pull.SendWant(TestWorker::Key(0, 0, 0, 2), some)) continue;
  EXPECT_FALSE(pull.AwaitClosed().ok());
  TrainStep(worker, 0);
}

TEST_F(HostileShardTest, TakesNothing_IsCutOffInTime) {
  ShardService::Options limits;
  limits.stalled_write = absl::Milliseconds(300);
  Start(limits);
  shard_->Bind(0, 2);
  RawStream pull(address(), "Pull", TestName(2));
  pull.SendWant(TestWorker::Key(0, 0, 0, 2), {FragmentId(0), FragmentId(1), FragmentId(2)});
  ASSERT_TRUE(AwaitStatus([](const auto& status) { return status.pull_streams() == 1; }));
  EXPECT_TRUE(AwaitStatus([](const auto& status) { return status.pull_streams() == 0; }));
}

// A member that asks for every version and reads none: of each fragment one version waits for it.
TEST_F(HostileShardTest, ReadsNothing_KeepsNoOldVersionsAlive) {
  Start();
  shard_->Bind(0, 2);
  TestWorker worker(&layout_, {address()});
  ASSERT_TRUE(worker.AwaitConnected());
  RawStream pull(address(), "Pull", TestName(2));
  RawStream push(address(), "Push", TestName(2));
  constexpr Step kSteps = 40;
  int64_t before = 0;
  for (Step step = 0; step < kSteps; ++step) {
    shard_->Bind(step, 2);
    std::vector<FragmentId> all;
    for (const int f : kAll) all.emplace_back(f);
    ASSERT_TRUE(pull.SendWant(TestWorker::Key(step, 0, 0, 2), all));
    for (const int f : kAll) {
      push.SendFragment(TestWorker::Key(step, f, 0, 2), {});
      worker.Push(step, f, 1, SizeOf(f));
    }
    ASSERT_TRUE(shard_->link().AwaitDone(step));
    for (size_t i = 0; i < kAll.size(); ++i) push.AwaitFrame();
    if (step == 5) before = ResidentBytes();
  }
  // All versions would be 34 x 8.4 MB = 286 MB; three may come and go.
  EXPECT_LT(ResidentBytes() - before, 120 << 20);
}

TEST_F(HostileShardTest, FramesThatCannotBe_EndTheirStreamOnly) {
  Start();
  shard_->Bind(0, 1, false, 2);
  TestWorker worker(&layout_, {address()});
  ASSERT_TRUE(worker.AwaitConnected());
  FrameHeader header = FirstPart(0);
  header.payload_bytes = 1000;
  {
    RawStream push(address(), "Push", TestName(2));  // fewer bytes than the header says
    push.SendAsIs(header, std::string(999, '\0'));
    EXPECT_TRUE(absl::IsInvalidArgument(push.AwaitClosed()));
  }
  {
    RawStream push(address(), "Push", TestName(2), absl::Seconds(5));  // of another worker
    push.SendFragment(TestWorker::Key(0, kSmall, 0, 1), {});
    EXPECT_TRUE(absl::IsInvalidArgument(push.AwaitClosed()));
  }
  {
    RawStream pull(address(), "Pull", TestName(2));  // more fragments than there are, many times
    pull.SendWant(TestWorker::Key(0, 0, 0, 2), std::vector<FragmentId>(5000, FragmentId(0)));
    EXPECT_TRUE(absl::IsResourceExhausted(pull.AwaitClosed()));
  }
  {
    RawStream push(address(), "Push",
                   TestName(2));  // begins fragment after fragment, and reads nothing
    for (Step step = 4; step < 3000 && push.Send(FirstPart(0, step), std::string(4, '\0')); ++step)
      continue;
    EXPECT_LE(shard_->Status().incoming_bytes(), ShardService::Options().worker_bytes);
  }
  // Only worker 1's is left, and nothing of the other's.
  EXPECT_TRUE(AwaitStatus([](const auto& status) {
    return status.push_streams() == 1 && status.incoming_bytes() == 0;
  }));
  TrainStep(worker, 0);
}

}  // namespace
}  // namespace sdp

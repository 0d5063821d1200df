// Processes that get SIGKILL, SIGSTOP or SIGTERM at named points of a step: a worker before it has
// pushed, amid its gradients, and when shards have all of them but the step is not committed; a
// shard, a worker and the coordinator during a checkpoint and during a change of view. Nothing in
// the programs helps: slow and late links make each point last for seconds, and `sdp status` and
// the run's files say that it is there. What the run records afterwards says that the signal came
// in time.
#include <algorithm>
#include <csignal>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/faults/lab_fixture.h"

namespace sdp {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr absl::Duration kPoint = absl::Seconds(60), kRecovery = absl::Seconds(60);
constexpr absl::Duration kEnd = absl::Seconds(120);
constexpr int kTries = 3;  // to be in time: what `status` says is up to a second old

class NamedPointsTest : public LabFixture {
 protected:
  // A model with 7 MB of parameters: at 5 Mbit a second a worker pulls and pushes for seconds.
  const std::vector<std::string> large_ = {"model.dim=256",      "model.ffn_dim=512",
                                           "model.layers=2",     "train.eval_every=0",
                                           "checkpoint.every=0", "train.steps=1000000"};

  Json Status() const {
    const Outcome outcome = Ask("status --insecure --json");
    const Json status = Json::parse(outcome.output, nullptr, /*allow_exceptions=*/false);
    return status.is_object() ? status : Json::object();
  }
  static Json MemberOf(const Json& status, const std::string& name) {
    for (const Json& member : status.value("members", Json::array())) {
      if (member["name"] == name) return member;
    }
    return Json::object();
  }
  // Whether shards keep contributions to a step that is not committed.
  static bool RoundsAreOpen(const Json& status) {
    for (const Json& shard : status.value("shards", Json::array())) {
      if (shard.value("round_bytes", 0) > 0) return true;
    }
    return false;
  }
  // The oldest step that is not committed is at this point, for this worker.
  void AwaitPhase(const std::string& worker, const std::string& phase) {
    Await(absl::StrCat(worker, ": ", phase), kPoint, [&] {
      const Json status = Status();
      point_step_ = status.value("committed", -1) + 1;
      const std::string now = MemberOf(status, worker).value("phase", "");
      return absl::StartsWith(now, absl::StrCat("step ", point_step_, ": ")) &&
             absl::StrContains(now, phase) && RoundsAreOpen(status);
    });
  }
  // When `await` has seen a point, kills the worker and starts another process under its name, as a
  // user or Kubernetes would. The step at whose point it was is not over then; `counts`: its
  // contribution to it does. Tries again when the signal came too late.
  bool KillAt(const std::string& worker, const std::function<void()>& await, bool counts) {
    bool done = false;
    for (int times = 0; times < kTries && !done && !HasFailure(); ++times) {
      const auto incarnation = Events("join", worker).back()["incarnation"].get<int64_t>();
      const size_t lives = Events("ready", worker).size();
      await();
      process(worker).Signal(SIGKILL);
      EXPECT_TRUE(process(worker).WaitUntil(absl::Now() + kPoint).has_value());
      const bool in_time = LineOf(point_step_) == nullptr;
      Start(worker);
      Await("another one is there", kRecovery,
            [&] { return Events("ready", worker).size() > lives; });
      Await("the step is over", kRecovery, [&] { return LineOf(point_step_) != nullptr; });
      done = in_time && IsLostIn(point_step_, incarnation) != counts;
    }
    return done;
  }
  // Of a step that is committed; null: it is not.
  const Json* LineOf(int64_t step) {
    for (const Json& line : Lines()) {
      if (line["step"] == step) return &line;
    }
    return nullptr;
  }
  bool IsLostIn(int64_t step, int64_t incarnation) {
    const Json* const line = LineOf(step);
    const auto lost = line == nullptr ? std::vector<int64_t>()
                                      : line->value("lost_workers", std::vector<int64_t>());
    return std::find(lost.begin(), lost.end(), incarnation) != lost.end();
  }

  int64_t point_step_ = -1;  // the oldest that was not committed when a point was seen
};

TEST_F(NamedPointsTest, AWorker_BeforeItsPush_AmidIt_AndWithAllReceived) {
  Begin({.shards = 2, .workers = 3}, large_);
  Links(absl::StrCat("set ", HostOf("worker-0"), " all rate=5mbit"));
  for (const char* phase : {"waiting for 2 fragments", "3 gradients not acknowledged"}) {
    EXPECT_TRUE(KillAt(
        "worker-0", [&] { AwaitPhase("worker-0", phase); }, /*counts=*/false))
        << phase;
  }
  // The step waits for worker-0; what worker-1 has done for it counts, though it is gone.
  const auto await_reported = [&] {
    Await("worker-1 has reported the step", kPoint, [&] {
      const Json status = Status();
      point_step_ = status.value("committed", -1) + 1;
      return MemberOf(status, "worker-1").value("step", -1) == point_step_;
    });
  };
  EXPECT_TRUE(KillAt("worker-1", await_reported, /*counts=*/true));
  Links("reset");
  ExpectStopInOrder(kEnd);
}

TEST_F(NamedPointsTest, AWorker_IsStoppedAmidItsPush_AndIsToldToLeaveAmidIt) {
  Begin({.shards = 2, .workers = 3}, large_);
  Links(absl::StrCat("set ", HostOf("worker-0"), " all rate=5mbit"));
  AwaitPhase("worker-0", "3 gradients not acknowledged");
  process("worker-0").Signal(SIGSTOP);
  Await("it is excluded", absl::Seconds(40),
        [&] { return !Events("exclude", "worker-0").empty(); });
  process("worker-0").Signal(SIGCONT);
  Await("it is back", kRecovery, [&] { return Events("ready", "worker-0").size() == 2; });
  AwaitMoreLines(2, kRecovery);

  Start("worker-0", {"--grace", "60"});  // in the place of the one there is
  Await("another one is there", kRecovery, [&] { return Events("ready", "worker-0").size() == 3; });
  const auto incarnation = Events("join", "worker-0").back()["incarnation"].get<int64_t>();
  AwaitPhase("worker-0", "3 gradients not acknowledged");
  process("worker-0").Signal(SIGTERM);
  const auto end = process("worker-0").WaitUntil(absl::Now() + kRecovery);
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(Describe(*end), "exit status 0");
  Await("the step", kRecovery, [&] { return LineOf(point_step_) != nullptr; });
  EXPECT_FALSE(IsLostIn(point_step_, incarnation));
  EXPECT_THAT(Events("leave", "worker-0"), SizeIs(1));
  ExpectStopInOrder(kEnd);
}

// shard-1 is late with what it tells the coordinator: a checkpoint has its files, and no manifest.
TEST_F(NamedPointsTest, DuringACheckpoint_CoordinatorShardAndWorker) {
  const std::vector<std::string> settings = {"train.steps=40", "checkpoint.every=5",
                                             "train.eval_every=0"};
  std::string words;
  for (const std::string& setting : settings) absl::StrAppend(&words, " --set ", setting);
  ASSERT_EQ(Train("undisturbed", words).exit_status, 0);
  Begin({.shards = 2, .workers = 4}, settings);
  Links(absl::StrCat("set ", HostOf("shard-1"), " to h1 delay=500ms"));
  const auto await_checkpoint = [&] {
    fs::path folder;
    Await("a checkpoint is being written", kPoint, [&] {
      for (const auto& entry : fs::directory_iterator(RunDir("run") / "checkpoints")) {
        folder = entry.path();
        const bool some = fs::exists(folder / "shard-0-of-2.gen-1.safetensors") ||
                          fs::exists(folder / "shard-0-of-2.gen-2.safetensors");
        if (some && !fs::exists(folder / "manifest.json")) return true;
      }
      return false;
    });
    return folder;
  };

  fs::path folder = await_checkpoint();
  process("coordinator").Signal(SIGKILL);
  process("coordinator").WaitUntil(absl::Now() + kPoint);
  EXPECT_FALSE(fs::exists(folder / "manifest.json"));  // killed in time
  Start("coordinator", {"--recover"});
  AwaitMoreLines(1, kRecovery);
  EXPECT_THAT(Events("go_back"), IsEmpty());

  folder = await_checkpoint();
  process("shard-0").Signal(SIGKILL);
  process("shard-0").WaitUntil(absl::Now() + kPoint);
  Start("shard-0");
  Await("the run goes back", kRecovery, [&] { return !Events("go_back").empty(); });
  AwaitMoreLines(1, kRecovery);

  folder = await_checkpoint();
  process("worker-3").Signal(SIGSTOP);
  Await("the checkpoint is complete without it", kRecovery,
        [&] { return fs::exists(folder / "manifest.json"); });
  process("worker-3").Signal(SIGCONT);
  Links("reset");
  ExpectEndInOrder(kEnd);
  EXPECT_THAT(Events("exclude"), IsEmpty());
  EXPECT_EQ(StateHash("run"), StateHash("undisturbed"));
}

// shard-1 hears late of the first step with the joiner: some members know the new view, some do
// not.
TEST_F(NamedPointsTest, DuringAChangeOfView_ShardCoordinatorAndWorker) {
  Begin({.shards = 2, .workers = 3},
        {"train.steps=1000000", "train.eval_every=0", "checkpoint.every=20"});
  Await("a checkpoint", kPoint, [&] { return !Events("checkpoint").empty(); });
  Links(absl::StrCat("set h1 to ", HostOf("shard-1"), " delay=500ms"));
  const auto await_change = [&] {
    const size_t before = Events("replan").size();
    Start("worker-2");  // takes the place of the one there is
    Await("the view changes", kRecovery, [&] { return Events("replan").size() > before; });
    const auto step = Events("replan").back()["step"].get<int64_t>();
    EXPECT_EQ(LineOf(step), nullptr) << step;
    return step;
  };

  await_change();
  process("worker-1").Signal(SIGKILL);
  process("worker-1").WaitUntil(absl::Now() + kPoint);
  Start("worker-1");
  Await("three train", kRecovery, [&] { return Events("ready", "worker-1").size() == 2; });
  AwaitMoreLines(3, kRecovery);

  await_change();
  process("coordinator").Signal(SIGKILL);
  process("coordinator").WaitUntil(absl::Now() + kPoint);
  Start("coordinator", {"--recover"});
  AwaitMoreLines(3, kRecovery);
  EXPECT_THAT(Events("go_back"), IsEmpty());

  await_change();
  process("shard-0").Signal(SIGKILL);
  process("shard-0").WaitUntil(absl::Now() + kPoint);
  Start("shard-0");
  Await("the run goes back", kRecovery, [&] { return !Events("go_back").empty(); });
  Await("three train", kRecovery,
        [&] { return Lines().back()["generation"] == 2 && Workers() == 3; });
  Links("reset");
  ExpectStopInOrder(kEnd);
}

}  // namespace
}  // namespace sdp

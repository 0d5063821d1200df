#include "worker/service/compute_thread.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/base/signal.h"

namespace sdp {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int kUnits = 3;

// Takes every unit of the task, and gives as each one's gradient its numbers plus the step.
class FakeModel final : public LocalModel {
 public:
  absl::StatusOr<TrainResult> Train(const TrainTask& task, Exchange& exchange) override {
    TrainResult result;
    std::vector<FloatBuffer> weights;
    for (const HeldUnit& held : task.units) {
      auto fragments = exchange.Take(held.unit);
      if (!fragments.ok()) return fragments.status();
      weights.push_back(std::move(fragments->front()).Widened());
      result.loss.loss_sum += weights.back().data()[0];
    }
    exchange.BackwardBegins();
    for (size_t i = weights.size(); i-- > 0;) {
      weights[i].data()[0] += static_cast<float>(task.step);
      exchange.Released(task.units[i].unit);
      exchange.Gradient(FragmentId(task.units[i].unit.value()), std::move(weights[i]));
    }
    result.loss.terms = 1;
    return result;
  }

  // As Train, of units that it wants.
  absl::Status DenseGradient(const DenseTask& task, Exchange& exchange) override {
    for (const HeldUnit& held : task.units) {
      exchange.Want(held.unit);
      auto fragments = exchange.Take(held.unit);
      if (!fragments.ok()) return fragments.status();
      exchange.Gradient(FragmentId(held.unit.value()), std::move(fragments->front()));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<LossSum> Evaluate(const EvaluateTask& task, Exchange& exchange) override {
    LossSum sum;
    for (const HeldUnit& unit : task.units) {
      exchange.Want(unit.unit);
      const auto fragments = exchange.Take(unit.unit);
      if (!fragments.ok()) return fragments.status();
      sum.loss_sum += fragments->front().floats()[0];
    }
    return sum;
  }
};

std::vector<WireBuffer> Unit(float number) {
  FloatBuffer buffer(1);
  buffer.data()[0] = number;
  std::vector<WireBuffer> fragments;
  fragments.push_back(std::move(buffer));
  return fragments;
}

std::vector<HeldUnit> AllUnits() {
  std::vector<HeldUnit> units;
  for (int u = 0; u < kUnits; ++u) units.push_back({UnitId(u)});
  return units;
}

TrainTask Training(Step step) {
  TrainTask task;
  task.step = step;
  task.units = AllUnits();
  return task;
}

// A compute thread whose events are written down on the owner's loop.
class ComputeThreadTest : public ::testing::Test {
 protected:
  // Ends() is told after `results` tasks.
  void Start(absl::Duration take_timeout, int results) {
    ComputeThread::Events events;
    events.want = [this](Step step, UnitId unit) { Tell("want", step, unit.value()); };
    events.backward_begins = [this](Step step) { Tell("backward", step, 0); };
    events.released = [this](Step step, UnitId unit) { Tell("released", step, unit.value()); };
    events.gradient = [this](Step step, FragmentId fragment, const WireBuffer& gradient) {
      Tell(absl::StrCat("gradient ", gradient.floats()[0]), step, fragment.value());
    };
    events.trained = [this, results](Step step, const absl::StatusOr<TrainResult>& result) {
      Tell(result.ok() ? absl::StrCat("trained ", result->loss.loss_sum)
                       : std::string(result.status().message()),
           step, 0);
      End(result.status(), results);
    };
    events.evaluated = [this, results](Step step, const absl::StatusOr<LossSum>& result) {
      Tell(result.ok() ? absl::StrCat("evaluated ", result->loss_sum) : "", step, 0);
      End(result.status(), results);
    };
    events.dense = [this, results](Step step, const absl::Status& status) {
      Tell(status.ok() ? "dense" : "", step, 0);
      End(status, results);
    };
    thread_ = std::make_unique<ComputeThread>(&model_, &owner_, std::move(events), take_timeout);
  }

  void Tell(const std::string& what, Step step, int id) {
    told_.push_back(absl::StrCat(step, " ", what, " ", id));
  }
  void End(const absl::Status& status, int results) {
    statuses_.push_back(status);
    if (static_cast<int>(statuses_.size()) == results) ended_.Set();
  }

  FakeModel model_;
  std::vector<std::string> told_;       // the owner's until `ended_`
  std::vector<absl::Status> statuses_;  // likewise
  Signal ended_;
  EventLoop owner_{"owner"};
  std::unique_ptr<ComputeThread> thread_;
};

TEST_F(ComputeThreadTest, Train_EventsComeInTheModelsOrder) {
  Start(absl::Seconds(30), 1);
  thread_->UnitHere(7, UnitId(2), Unit(30));  // before its task
  thread_->Add(Training(7));
  thread_->UnitHere(7, UnitId(1), Unit(20));
  thread_->UnitHere(7, UnitId(0), Unit(10));
  ASSERT_TRUE(ended_.Wait());
  EXPECT_THAT(told_,
              ElementsAre("7 backward 0", "7 released 2", "7 gradient 37 2", "7 released 1",
                          "7 gradient 27 1", "7 released 0", "7 gradient 17 0", "7 trained 60 0"));
}

TEST_F(ComputeThreadTest, Evaluate_WantsEachUnitBeforeItTakesIt) {
  Start(absl::Seconds(30), 1);
  thread_->Add(EvaluateTask{.step = 4, .units = AllUnits()});
  for (int u = 0; u < kUnits; ++u) thread_->UnitHere(4, UnitId(u), Unit(1));
  ASSERT_TRUE(ended_.Wait());
  EXPECT_THAT(told_, ElementsAre("4 want 0", "4 want 1", "4 want 2", "4 evaluated 3 0"));
}

TEST_F(ComputeThreadTest, DenseGradient_WantsAndGives) {
  Start(absl::Seconds(30), 1);
  DenseTask task;
  task.step = 4;
  task.units = AllUnits();
  thread_->Add(std::move(task));
  for (int u = 0; u < kUnits; ++u) thread_->UnitHere(4, UnitId(u), Unit(static_cast<float>(u)));
  ASSERT_TRUE(ended_.Wait());
  EXPECT_THAT(told_, ElementsAre("4 want 0", "4 gradient 0 0", "4 want 1", "4 gradient 1 1",
                                 "4 want 2", "4 gradient 2 2", "4 dense 0"));
}

TEST_F(ComputeThreadTest, WeightsOfAnotherStep_AreNotTaken_DeadlineNamesStepAndUnit) {
  Start(absl::Milliseconds(20), 1);
  thread_->UnitHere(7, UnitId(0), Unit(10));
  thread_->UnitHere(6, UnitId(1), Unit(20));
  thread_->Add(Training(7));
  ASSERT_TRUE(ended_.Wait());
  EXPECT_TRUE(absl::IsDeadlineExceeded(statuses_.front())) << statuses_.front();
  EXPECT_THAT(told_,
              ElementsAre(HasSubstr("step 7: the weights of unit 1 have not come for 20ms")));
}

// The end must not wait for weights that never come.
TEST_F(ComputeThreadTest, Destructor_WhileTheModelWaits_EndsIt) {
  Start(absl::InfiniteDuration(), 1);
  thread_->Add(EvaluateTask{.step = 4, .units = AllUnits()});
  thread_.reset();
  owner_.Stop();
  for (const absl::Status& status : statuses_) EXPECT_TRUE(absl::IsCancelled(status)) << status;
}

TEST_F(ComputeThreadTest, ManySteps_UnitsFromSeveralThreads) {
  constexpr Step kSteps = 300;
  Start(absl::Seconds(30), kSteps);
  std::vector<std::thread> streams;
  for (int u = 0; u < kUnits; ++u) {
    streams.emplace_back([this, u] {
      for (Step step = 0; step < kSteps; ++step) {
        if (u == 0) thread_->Add(Training(step));
        thread_->UnitHere(step, UnitId(u), Unit(static_cast<float>(u)));
      }
    });
  }
  for (std::thread& stream : streams) stream.join();
  ASSERT_TRUE(ended_.Wait());
  ASSERT_EQ(told_.size(), kSteps * (2 + 2 * kUnits));
  for (size_t step = 0; step < kSteps; ++step) {
    const size_t last = (step + 1) * (2 + 2 * kUnits) - 1;
    EXPECT_EQ(told_[last], absl::StrCat(step, " trained 3 0"));
    EXPECT_EQ(told_[last - 1], absl::StrCat(step, " gradient ", step, " 0"));
  }
}

}  // namespace
}  // namespace sdp

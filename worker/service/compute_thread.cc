#include "worker/service/compute_thread.h"

#include <pthread.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace sdp {

ComputeThread::ComputeThread(LocalModel* model, EventLoop* owner, Events events,
                             absl::Duration take_timeout)
    : model_(model),
      owner_(owner),
      events_(std::move(events)),
      take_timeout_(take_timeout),
      thread_([this] { Run(); }) {}

ComputeThread::~ComputeThread() {
  Cancel();
  thread_.join();
}

void ComputeThread::AddTask(Task task) {
  MutexLock lock(&mutex_);
  tasks_.push_back(std::move(task));
}

void ComputeThread::UnitHere(Step step, UnitId unit, std::vector<WireBuffer> fragments) {
  MutexLock lock(&mutex_);
  units_[{step, unit}] = std::move(fragments);
}

void ComputeThread::Cancel() {
  MutexLock lock(&mutex_);
  cancelled_ = true;
}

void ComputeThread::Run() {
  pthread_setname_np(pthread_self(), "compute");
  for (;;) {
    Task task;
    {
      MutexLock lock(&mutex_);
      auto awake = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return cancelled_ || !tasks_.empty();
      };
      // Woken by the next task or by Cancel, which the owner calls at the latest when it ends.
      mutex_.AwaitWithDeadline(absl::Condition(&awake), absl::InfiniteFuture());
      if (cancelled_) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    std::visit([this](const auto& work) { Work(work); }, task);
  }
}

void ComputeThread::Work(const TrainTask& task) {
  step_ = task.step;
  auto result = model_->Train(task, *this);
  owner_->Post([this, step = step_, result = std::move(result)] { events_.trained(step, result); });
}

void ComputeThread::Work(const EvaluateTask& task) {
  step_ = task.step;
  auto result = model_->Evaluate(task, *this);
  owner_->Post(
      [this, step = step_, result = std::move(result)] { events_.evaluated(step, result); });
}

void ComputeThread::Work(const DenseTask& task) {
  step_ = task.step;
  auto result = model_->DenseGradient(task, *this);
  owner_->Post([this, step = step_, result = std::move(result)] { events_.dense(step, result); });
}

void ComputeThread::Want(UnitId unit) {
  owner_->Post([this, step = step_, unit] { events_.want(step, unit); });
}

absl::StatusOr<std::vector<WireBuffer>> ComputeThread::Take(UnitId unit) {
  MutexLock lock(&mutex_);
  const std::pair<Step, UnitId> key(step_, unit);
  auto here = [this, &key]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return cancelled_ || units_.contains(key);
  };
  if (!mutex_.AwaitWithDeadline(absl::Condition(&here), absl::Now() + take_timeout_)) {
    return absl::DeadlineExceededError(absl::StrCat("step ", step_, ": the weights of unit ",
                                                    unit.value(), " have not come for ",
                                                    absl::FormatDuration(take_timeout_)));
  }
  if (cancelled_) return absl::CancelledError("the worker ends");
  auto fragments = std::move(units_.at(key));
  units_.erase(key);
  return fragments;
}

void ComputeThread::BackwardBegins() {
  owner_->Post([this, step = step_] { events_.backward_begins(step); });
}

void ComputeThread::Released(UnitId unit) {
  owner_->Post([this, step = step_, unit] { events_.released(step, unit); });
}

void ComputeThread::Gradient(FragmentId fragment, WireBuffer gradient) {
  // Shared only because a posted task must be copyable.
  auto shared = std::make_shared<WireBuffer>(std::move(gradient));
  owner_->Post([this, step = step_, fragment, shared] {
    events_.gradient(step, fragment, std::move(*shared));
  });
}

}  // namespace sdp

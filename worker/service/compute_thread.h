#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/mutex.h"
#include "common/rpc/event_loop.h"
#include "worker/logic/local_model.h"

namespace sdp {

// The thread on which a LocalModel computes, one task after another, between the worker's EventLoop
// and the blocking seam of the model. Weights come in by UnitHere, everything the model does goes
// out as an event on the loop, in the model's order. Threads: all methods from any. The destructor
// cancels what is under way and joins.
class ComputeThread final : private Exchange {
 public:
  struct Events {  // on the owner's loop
    std::function<void(Step, UnitId)> want;
    std::function<void(Step)> backward_begins;
    std::function<void(Step, UnitId)> released;
    std::function<void(Step, FragmentId, WireBuffer)> gradient;
    std::function<void(Step, const absl::StatusOr<LossSum>&)> evaluated;
    std::function<void(Step, const absl::Status&)> dense;
    std::function<void(Step, const absl::StatusOr<TrainResult>&)> trained;
  };

  // `take_timeout`: how long the model may wait for one unit. `model` and `owner` outlive this
  // object.
  ComputeThread(LocalModel* model, EventLoop* owner, Events events, absl::Duration take_timeout);
  ~ComputeThread() override;

  void Add(TrainTask task) ABSL_LOCKS_EXCLUDED(mutex_) { AddTask(std::move(task)); }
  void Add(EvaluateTask task) ABSL_LOCKS_EXCLUDED(mutex_) { AddTask(std::move(task)); }
  void Add(DenseTask task) ABSL_LOCKS_EXCLUDED(mutex_) { AddTask(std::move(task)); }
  void UnitHere(Step step, UnitId unit, std::vector<WireBuffer> fragments)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Ends waits with Cancelled and starts no further task.
  void Cancel() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  using Task = std::variant<TrainTask, EvaluateTask, DenseTask>;

  void AddTask(Task task) ABSL_LOCKS_EXCLUDED(mutex_);
  void Run() ABSL_LOCKS_EXCLUDED(mutex_);
  void Work(const TrainTask& task);
  void Work(const EvaluateTask& task);
  void Work(const DenseTask& task);

  void Want(UnitId unit) override;
  absl::StatusOr<std::vector<WireBuffer>> Take(UnitId unit) override ABSL_LOCKS_EXCLUDED(mutex_);
  void BackwardBegins() override;
  void Released(UnitId unit) override;
  void Gradient(FragmentId fragment, WireBuffer gradient) override;

  LocalModel* const model_;
  EventLoop* const owner_;
  const Events events_;
  const absl::Duration take_timeout_;
  Step step_ = 0;  // of the task under way; only the thread's own

  Mutex mutex_;
  std::deque<Task> tasks_ ABSL_GUARDED_BY(mutex_);
  std::map<std::pair<Step, UnitId>, std::vector<WireBuffer>> units_ ABSL_GUARDED_BY(mutex_);
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace sdp

#include "tests/cluster/sim_compute.h"

#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"

namespace sdp {

// Hands over what has come; remembers what the model says, in order.
class SimCluster::Compute::Recorder final : public Exchange {
 public:
  Recorder(Compute* compute, Step step) : compute_(compute), step_(step) {}
  void Want(UnitId) override {}
  absl::StatusOr<std::vector<WireBuffer>> Take(UnitId unit) override {
    const auto it = compute_->units_.find({step_, unit});
    if (it == compute_->units_.end())
      return absl::InternalError(absl::StrCat("unit ", unit.value(), " is not here"));
    if (!compute_->keep_) {
      std::vector<WireBuffer> fragments = std::move(it->second);
      compute_->units_.erase(it);
      return fragments;
    }
    std::vector<WireBuffer> copy;  // an evaluation may walk several times
    for (const WireBuffer& fragment : it->second) copy.push_back(fragment.Clone());
    return copy;
  }
  void Released(UnitId unit) override {
    events.push_back([compute = compute_, step = step_, unit] {
      return compute->worker().OnReleased(step, unit);
    });
  }
  void BackwardBegins() override {
    events.push_back(
        [compute = compute_, step = step_] { return compute->worker().OnBackwardBegins(step); });
  }
  void Gradient(FragmentId fragment, WireBuffer gradient) override {
    auto shared = std::make_shared<WireBuffer>(std::move(gradient));
    events.push_back([compute = compute_, step = step_, fragment, shared] {
      return compute->worker().OnGradient(step, fragment, std::move(*shared));
    });
  }
  std::vector<std::function<WorkerActions()>> events;

 private:
  Compute* const compute_;
  const Step step_;
};

void SimCluster::Compute::Add(Task task) {
  tasks_.push_back(std::move(task));
  Next();
}

void SimCluster::Compute::UnitHere(Step step, UnitId unit, std::vector<WireBuffer> fragments) {
  units_[{step, unit}] = std::move(fragments);
  if (wanted_.erase({step, unit}) > 0) WantNext();
  Next();
}

void SimCluster::Compute::Next() {
  if (busy_ || tasks_.empty()) return;
  if (const auto* train = std::get_if<TrainTask>(&tasks_.front())) return Train(*train);
  if (const auto* dense = std::get_if<DenseTask>(&tasks_.front()))
    return Walk(dense->step, dense->units);
  const auto& evaluate = std::get<EvaluateTask>(tasks_.front());
  Walk(evaluate.step, evaluate.units);
}

void SimCluster::Compute::Train(const TrainTask& task) {
  for (const HeldUnit& unit : task.units) {
    if (!units_.contains({task.step, unit.unit})) return;
  }
  for (const UnitId unit : task.read_only) {
    if (!units_.contains({task.step, unit})) return;
  }
  busy_ = true;
  Recorder recorder(this, task.step);
  const auto result = model_->Train(task, recorder);
  Emit(std::move(recorder.events), [this, step = task.step, result] {
    return worker().OnTrained(step, result, cluster_->now_);
  });
}

// Of the full model, for the task in front.
void SimCluster::Compute::Walk(Step step, const std::vector<HeldUnit>& units) {
  walked_ = step;
  if (!wants_.has_value()) {
    wants_ = std::deque<UnitId>();
    for (const HeldUnit& unit : units) wants_->push_back(unit.unit);
    WantNext();
    WantNext();
    return;
  }
  for (const HeldUnit& unit : units) {
    if (!units_.contains({step, unit.unit})) return;
  }
  busy_ = true;
  wants_.reset();
  keep_ = true;
  Recorder recorder(this, step);
  std::function<WorkerActions()> last;
  if (const auto* dense = std::get_if<DenseTask>(&tasks_.front())) {
    last = [this, step, result = model_->DenseGradient(*dense, recorder)] {
      return worker().OnDense(step, result);
    };
  } else {
    const auto& evaluate = std::get<EvaluateTask>(tasks_.front());
    last = [this, step, result = model_->Evaluate(evaluate, recorder)] {
      return worker().OnEvaluated(step, result);
    };
  }
  keep_ = false;
  std::erase_if(units_, [&](const auto& unit) { return unit.first.first == step; });
  Emit(std::move(recorder.events), std::move(last));
}

void SimCluster::Compute::WantNext() {
  if (!wants_.has_value() || wants_->empty()) return;
  const Step step = walked_;
  const UnitId unit = wants_->front();
  wants_->pop_front();
  wanted_.insert({step, unit});
  cluster_->At(cluster_->Delay(), [=, this] {
    cluster_->In(*life_, [=, this] { cluster_->Do(*life_, worker().OnWant(step, unit)); });
  });
}

void SimCluster::Compute::Emit(std::vector<std::function<WorkerActions()>> events,
                               std::function<WorkerActions()> last) {
  absl::Duration at;
  for (auto& event : events) {
    at += cluster_->Delay() / 8;
    cluster_->At(at,
                 [=, this] { cluster_->In(*life_, [=, this] { cluster_->Do(*life_, event()); }); });
  }
  cluster_->At(at + cluster_->Delay() / 8, [=, this] {
    cluster_->In(*life_, [=, this] {
      busy_ = false;
      tasks_.pop_front();
      cluster_->Do(*life_, last());
      Next();
    });
  });
}

}  // namespace sdp

#pragma once

#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <variant>
#include <vector>

#include "tests/cluster/sim_cluster.h"

namespace sdp {

// Plays one worker's compute thread: takes tasks in order, starts one when all its weights are
// here, and lets what the model does happen as events over simulated time.
class SimCluster::Compute {
 public:
  Compute(SimCluster* cluster, Life* life, LocalModel* model)
      : cluster_(cluster), life_(life), model_(model) {}

  using Task = std::variant<TrainTask, EvaluateTask, DenseTask>;
  void Add(Task task);
  void UnitHere(Step step, UnitId unit, std::vector<WireBuffer> fragments);

 private:
  class Recorder;
  Worker& worker() { return *life_->worker; }
  void Next();
  void Train(const TrainTask& task);
  void Walk(Step step, const std::vector<HeldUnit>& units);
  void WantNext();
  // The events happen one after another, then `last`, then the next task.
  void Emit(std::vector<std::function<WorkerActions()>> events,
            std::function<WorkerActions()> last);

  SimCluster* const cluster_;
  Life* const life_;
  LocalModel* const model_;
  std::deque<Task> tasks_;
  std::map<std::pair<Step, UnitId>, std::vector<WireBuffer>> units_;
  Step walked_ = 0;  // the version of the full model's walk
  std::optional<std::deque<UnitId>> wants_;
  std::set<std::pair<Step, UnitId>> wanted_;
  bool busy_ = false;
  bool keep_ = false;
};

}  // namespace sdp

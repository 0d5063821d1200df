#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "server/coordinator/logic/coordinator.h"

namespace sdp {

// A coordinator's logic with as many members as one wants, for what it costs: workers and shards
// are no more than the messages that they would send, the store answers at once. A model of equal
// units between two shared ones, each on `holders` workers whatever their number.
// Tests look at nothing else of it; that the answers are right other tests show.
class Crowd {
 public:
  struct Size {
    int workers = 1000;
    int shards = 16;
    int units = 1000;  // that are not shared
    int fragments_per_unit = 10;
    int holders = 8;
    int64_t eval_every = 0;
  };

  // Every call returns all that the coordinator did about it, records settled.
  explicit Crowd(const Size& size)
      : size_(size), catalog_(Model(size)), layout_(catalog_, kElements), logic_(OptionsOf(size)) {}
  Crowd(const Crowd&) = delete;
  Crowd& operator=(const Crowd&) = delete;

  // Shards have their start values, no worker is there.
  void Start();
  // A worker registers, as the incarnation that it is given, and loads its data.
  CoordinatorActions Register(const std::string& name) {
    members_.push_back({name, Incarnation(++incarnations_)});
    return Settle(logic_.RegisterWorker({name, "cafe", uint64_t{1} << 40, 0}, now_));
  }
  CoordinatorActions Ready(Incarnation worker) {
    absl::Status error;
    return Settle(logic_.Ready(worker, {1'000'000'000, 7, 20'000, 8}, now_, &error));
  }
  CoordinatorActions Ask(Incarnation worker, Step step, int64_t known_plan) {
    absl::Status error;
    return Settle(logic_.BeginStep(worker, step, known_plan, now_, &error));
  }
  CoordinatorActions Report(Incarnation worker, Step step);
  CoordinatorActions Evaluated(Incarnation worker, const EvaluationPart& part) {
    EvaluationReport report{worker, part.version, 10.0, 10};
    report.first = part.first;
    return Settle(logic_.OnEvaluation(report, now_));
  }
  // All shards have all contributions of the step, and its new version.
  CoordinatorActions Commit(Step step);
  CoordinatorActions Leave(Incarnation worker) { return Settle(logic_.Leave(worker, now_)); }
  CoordinatorActions Die(const std::string& name) {
    absl::Status error;
    return Settle(logic_.ProcessEnded(name, now_, &error));
  }
  CoordinatorActions Tick() {
    now_ += absl::Seconds(1);
    return Settle(logic_.Tick(now_));
  }
  void Heartbeat(Incarnation worker) {
    absl::Status error;
    logic_.WorkerHeartbeat(worker, "step 7: forward", /*waits=*/false, now_, &error);
  }

  struct Member {
    std::string name;
    Incarnation incarnation;
  };
  // Those that registered and were not taken out of this list, which is the caller's to do.
  std::vector<Member>& members() { return members_; }
  Coordinator& logic() { return logic_; }
  const Layout& layout() const { return layout_; }
  absl::Time now() const { return now_; }

 private:
  static constexpr int64_t kElements = 4;  // of a fragment

  static Catalog Model(const Size& size);
  Coordinator::Options OptionsOf(const Size& size) const;
  CoordinatorActions Settle(CoordinatorActions actions);

  const Size size_;
  const Catalog catalog_;
  const Layout layout_;
  Coordinator logic_;
  std::vector<std::vector<double>> squares_;  // [shards][their fragments]
  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
  std::vector<Member> members_;
  int64_t incarnations_ = 0;
};

}  // namespace sdp

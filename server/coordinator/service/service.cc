#include "server/coordinator/service/service.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/status.h"
#include "common/checkpoint/checkpoint_writer.h"
#include "common/control/convert.h"
#include "common/control/heartbeats.h"
#include "common/plan/report.h"
#include "common/rpc/status_code.h"
#include "server/coordinator/service/rpc.h"

namespace sdp {
namespace {

constexpr size_t kShownEvents = 50;

}  // namespace

CoordinatorService::CoordinatorService(Options options, EventLoop* loop, StateStore* store,
                                       RunFolder* folder)
    : options_(std::move(options)),
      loop_(loop),
      store_(store),
      folder_(folder),
      rpc_(std::make_unique<Rpc>(this)),
      logic_(std::make_unique<Coordinator>(options_.logic)),
      progress_(options_.logic.workers) {}

CoordinatorService::~CoordinatorService() = default;

grpc::Service* CoordinatorService::rpc() { return rpc_.get(); }

void CoordinatorService::Start() {
  loop_->Post([this] {
    begun_ = true;
    Execute(logic_->Start(absl::Now()));
    Tick();
  });
}

void CoordinatorService::Restore(std::vector<sdp::Record> records, Coordinator::Written written) {
  loop_->Post([this, records = std::move(records), written = std::move(written)] {
    restored_ = written;
    begun_ = true;
    Execute(logic_->Restore(records, written, absl::Now()));
    Tick();
  });
}

void CoordinatorService::Stop(const std::string& reason) {
  loop_->Post([this, reason] {
    stop_asked_ = reason;  // also of a generation that begins meanwhile
    if (!over_.has_value()) Execute(logic_->Stop(reason, absl::Now()));
  });
}

void CoordinatorService::End(const absl::Status& status) {
  loop_->Post([this, status] { EndRun(status); });
}

void CoordinatorService::Tick() {
  const absl::Time now = absl::Now();
  if (over_.has_value()) {
    TryLeave();
  } else {
    Execute(logic_->Tick(now));
  }
  WatchWaiting(now);
  if (!left_) loop_->PostAt(now + options_.tick, [this] { Tick(); });
}

void CoordinatorService::Execute(CoordinatorActions actions) {
  for (const auto& store : actions.store) Store(store);
  for (const auto& admit : actions.admit_shards) Admit(admit);
  for (const auto& admit : actions.admit_workers) Admit(admit);
  for (const auto& bind : actions.bind_shards) shards_->Bind(bind.shard, bind.binding);
  for (const auto& out : actions.exclude) shards_->Exclude(out.shard, out.exclusion);
  for (const auto& bind : actions.bind_workers) Bind(bind);
  for (const auto& scale : actions.scales) shards_->SetScale(scale.shard, scale.scale);
  WritePlanOnce();
  for (const CheckpointManifest& manifest : actions.manifests) Complete(manifest);
  for (const Step checkpoint : actions.abandoned) Abandon(checkpoint);
  for (const StepMetrics& metrics : actions.metrics) Record(metrics);
  for (const auto& release : actions.releases)
    shards_->ReleaseEvaluation(release.shard, release.step);
  for (const RunEvent& event : actions.events) Record(event);
  for (const std::string& line : actions.log) options_.log(line);
  for (const ShardId shard : actions.finish_shards) shards_->Finish(shard);
  if (actions.go_back.has_value()) GoBack(*actions.go_back);
  if (actions.stop.has_value()) EndRun(*actions.stop);
}

void CoordinatorService::GoBack(const std::string& why) {
  if (options_.go_back == nullptr) return EndRun(absl::UnavailableError(why));
  const GenerationStart next = logic_->NextStart();
  going_back_ = true;
  if (shards_ != nullptr) shards_->Shutdown();
  // From now on messages of the old generation are answered so that members register again.
  generation_ = next.generation;
  const grpc::Status again = ToGrpc(CheckGeneration(next.generation.value() - 1));
  for (const auto& pending : questions_.TakeAll()) pending.reactor->Finish(again);
  for (auto& [key, member] : members_) member.told = true;
  std::erase_if(members_, [](const auto& entry) { return entry.first.first == Role::kShard; });
  files_.Post([this, next] {
    auto beginning = std::make_shared<absl::StatusOr<Beginning>>(options_.go_back(next));
    loop_->Post([this, beginning] { BeginAgain(*beginning); });
  });
}

void CoordinatorService::BeginAgain(const absl::StatusOr<Beginning>& beginning) {
  going_back_ = false;
  shards_ = nullptr;
  if (over_.has_value()) return;
  if (!beginning.ok()) return EndRun(Context(beginning.status(), "going back to a checkpoint"));
  Coordinator::Options options = options_.logic;
  options.start = beginning->start;
  options.start.notes = beginning->notes;
  options.coverage = beginning->coverage;
  options.workers = logic_->members();  // those that were in the run, not more
  logic_ = std::make_unique<Coordinator>(options);
  ++times_back_;
  Execute(logic_->Start(absl::Now()));
  if (stop_asked_.has_value()) Execute(logic_->Stop(*stop_asked_, absl::Now()));
}

void CoordinatorService::Store(const CoordinatorActions::Store& store) {
  store_->Write(store.record,
                [this, loop = loop_, id = store.id, of = times_back_](const absl::Status& status) {
                  // A loop that has stopped drops it: then `this` may be gone.
                  loop->Post([this, id, of, status] {
                    if (over_.has_value()) return;
                    if (!status.ok()) return EndRun(status);
                    if (of == times_back_) Execute(logic_->Stored(id, absl::Now()));
                  });
                });
}

void CoordinatorService::Admit(const CoordinatorActions::AdmitShard& admit) {
  absl::Status status = admit.admission.status();
  if (status.ok()) {
    const ShardId shard = admit.admission->shard;
    if (shards_ == nullptr) {
      generation_ = admit.admission->generation;
      ShardControlClient::Events events;
      events.finished = [this](ShardId finished) {
        members_[{Role::kShard, finished.value()}].told = true;
        if (!over_.has_value()) Execute(logic_->ShardFinished(finished, absl::Now()));
      };
      events.failed = [this](ShardId failed, const absl::Status& error) {
        EndRun(Context(error, members_[{Role::kShard, failed.value()}].name));
      };
      shards_ = std::make_unique<ShardControlClient>(loop_, generation_, options_.instance,
                                                     options_.security, std::move(events));
    }
    Member& member = members_[{Role::kShard, shard.value()}];
    if (member.name.empty()) {  // else it asked again
      member = {.name = admit.name, .phase = "", .heard = absl::Now()};
      status = Context(shards_->Connect(shard, admit.address), admit.name);
      if (!status.ok()) EndRun(status);
    }
  }
  for (const auto& pending : shard_applicants_.Take({admit.name, admit.instance})) {
    if (status.ok()) *pending.response->mutable_admission() = ToProto(*admit.admission);
    pending.reactor->Finish(ToGrpc(status));
  }
}

void CoordinatorService::Admit(const CoordinatorActions::AdmitWorker& admit) {
  if (admit.admission.ok()) {
    Member& member = members_[{Role::kWorker, admit.admission->incarnation.value()}];
    if (member.name.empty()) member = {.name = admit.name, .phase = "", .heard = absl::Now()};
  }
  for (const auto& pending : worker_applicants_.Take({admit.name, admit.instance})) {
    if (admit.admission.ok()) *pending.response->mutable_admission() = ToProto(*admit.admission);
    pending.reactor->Finish(ToGrpc(admit.admission.status()));
  }
}

void CoordinatorService::Bind(const CoordinatorActions::ToWorker& bind) {
  bool heard = false;  // Nobody waits: the worker asks again, and gets the same answer then.
  for (const Step asked : {bind.binding.step, kFirstOfMine}) {
    for (const auto& question : questions_.Take({bind.worker, asked})) {
      *question.response->mutable_binding() = ToProto(bind.binding);
      question.response->set_coordinator(options_.instance);
      question.reactor->Finish(grpc::Status::OK);
      heard = true;
    }
  }
  if (bind.binding.finished && heard) members_[{Role::kWorker, bind.worker.value()}].told = true;
}

void CoordinatorService::Complete(const CheckpointManifest& manifest) {
  files_.Post([this, manifest] {
    const std::string& folder = options_.logic.checkpoints;
    const std::string path = absl::StrCat(folder, "/", CheckpointName(manifest.step));
    const absl::Status written = WriteManifest(path, manifest);
    if (written.ok()) {
      // Not before there is a newer one. What cannot be removed costs space, no more.
      const absl::Status removed = RemoveOldCheckpoints(folder, options_.keep_checkpoints);
      if (!removed.ok()) options_.log(absl::StrCat("old checkpoints: ", removed.message()));
    }
    loop_->Post([this, step = manifest.step, generation = manifest.generation, written] {
      if (!over_.has_value() && generation == generation_)
        Execute(logic_->CheckpointStored(step, written, absl::Now()));
    });
  });
}

void CoordinatorService::Abandon(Step checkpoint) {
  files_.Post([this, checkpoint] {
    const absl::Status removed =
        RemoveCheckpoint(absl::StrCat(options_.logic.checkpoints, "/", CheckpointName(checkpoint)));
    if (!removed.ok()) options_.log(absl::StrCat("abandoned checkpoint: ", removed.message()));
  });
}

void CoordinatorService::WritePlanOnce() {
  // It shows the plan of step 0, wherever this generation begins. Predicted is what the phase that
  // needs most does. For the workers of now there may be no plan of steps that are not to be done.
  if (plan_made_ || logic_->plan() == nullptr) return;
  plan_made_ = true;
  PlanInput input = logic_->PlanInputAt(0);
  absl::StatusOr<Plan> plan = MakePlan(input);
  if (plan.ok()) PredictMemory(input, *plan);
  for (const CoveragePhase& phase : options_.logic.phases) {
    if (phase.from == 0 || phase.from >= options_.logic.steps) continue;
    const PlanInput later = logic_->PlanInputAt(phase.from);
    if (const auto its_plan = MakePlan(later); its_plan.ok()) PredictMemory(later, *its_plan);
  }
  if (!plan.ok()) {
    options_.log(absl::StrCat("no plan.json: step 0 has none: ", plan.status().message()));
    return;
  }
  for (const std::string& warning : plan->warnings) options_.log(absl::StrCat("plan: ", warning));
  WritePlan(std::move(input), *std::move(plan));
}

void CoordinatorService::PredictMemory(const PlanInput& input, const Plan& plan) {
  const auto raise = [this](const std::string& name, int64_t bytes) {
    predicted_[name] = std::max(predicted_[name], bytes);
  };
  for (const auto& worker : ReportWorkers(input, plan, options_.element_bytes, options_.memory))
    raise(worker.id, worker.memory_bytes);
  if (options_.memory.layout == nullptr) return;
  int64_t number = 0;
  for (const ShardLoad& shard : ShardMemory(options_.memory)) {
    const auto member = members_.find({Role::kShard, number++});
    if (member != members_.end()) raise(member->second.name, shard.memory_bytes);
  }
}

// Steps do not wait for it: the gaps of thousands of workers take seconds.
void CoordinatorService::WritePlan(PlanInput input, Plan plan) {
  writing_plan_ = true;
  files_.Post([this, input = std::move(input), plan = std::move(plan)] {
    const PlanReport report = MakePlanReport(input, plan, options_.element_bytes, options_.memory);
    const absl::Status written = folder_->WritePlan(PlanJson(report));
    loop_->Post([this, written] {
      writing_plan_ = false;
      if (!written.ok()) EndRun(written);
      if (over_.has_value()) TryLeave();
    });
  });
}

int64_t CoordinatorService::Predicted(const std::string& name) const {
  const auto it = predicted_.find(name);
  return it == predicted_.end() ? 0 : it->second;
}

void CoordinatorService::Record(StepMetrics metrics) {
  // The end of a run whose last line was written before this process began.
  const bool written =
      metrics.generation == options_.logic.start.generation && metrics.step <= restored_.line;
  if (written) return;
  for (const auto& [key, member] : members_) {
    if (key.first == Role::kWorker) {
      const int64_t predicted = Predicted(member.name);
      metrics.predicted_worker_allocated_bytes =
          std::max(metrics.predicted_worker_allocated_bytes, predicted);
      if (predicted > 0) {
        worst_memory_ratio_ =
            std::max(worst_memory_ratio_, static_cast<double>(member.allocated_peak_bytes) /
                                              static_cast<double>(predicted));
      }
    } else {
      metrics.max_shard_memory_bytes =
          std::max(metrics.max_shard_memory_bytes, member.peak_memory_bytes);
      metrics.max_shard_allocated_bytes =
          std::max(metrics.max_shard_allocated_bytes, member.allocated_peak_bytes);
    }
  }
  progress_.Add(metrics);
  curves_.Add(metrics);
  options_.print(progress_.StepLine());
  CountStep(metrics);
  if (const absl::Status written = folder_->AppendMetrics(metrics); !written.ok()) EndRun(written);
  // Training does not need its curves: an error is said once, and stays in status.
  const absl::Status drawn = folder_->AppendCurves(metrics, absl::Now());
  if (drawn.ok() || !curves_error_.empty()) return;
  curves_error_ = std::string(drawn.message());
  options_.log(absl::StrCat(curves_error_, "; training goes on without it"));
}

// Training does not need it: that it cannot be written is said once, and stays in status.
void CoordinatorService::Record(const RunEvent& event) {
  CountEvent(event);
  events_.push_back(EventJson(event, absl::Now()));
  if (events_.size() > kShownEvents) events_.pop_front();
  const absl::Status written = folder_->AppendEvent(events_.back());
  if (written.ok() || !events_error_.empty()) return;
  events_error_ = std::string(written.message());
  options_.log(absl::StrCat(events_error_, "; training goes on without it"));
}

void CoordinatorService::EndRun(const absl::Status& status) {
  if (over_.has_value()) return;
  over_ = status;
  leave_by_ = absl::Now() + options_.linger;
  const RunStatus run = logic_->status(absl::Now());
  const RunEvent end{.kind = RunEvent::Kind::kEnd,
                     .generation = run.generation,
                     .step = run.step,
                     .code = status.code(),
                     .reason = std::string(status.message())};
  Record(end);
  options_.log(EventText(end));
  const grpc::Status answer = ToGrpc(Over());
  for (const auto& pending : shard_applicants_.TakeAll()) pending.reactor->Finish(answer);
  for (const auto& pending : worker_applicants_.TakeAll()) pending.reactor->Finish(answer);
  for (const auto& pending : questions_.TakeAll()) pending.reactor->Finish(answer);
  // Not at once: this may be inside one of its events.
  loop_->Post([this] {
    if (shards_ != nullptr) shards_->Shutdown();
    TryLeave();
  });
}

absl::Status CoordinatorService::Over() const {
  // Codes that a caller would take for a broken connection must not get out.
  if (over_->ok()) return absl::OutOfRangeError("the run is finished");
  if (absl::IsCancelled(*over_)) return *over_;
  return absl::FailedPreconditionError(over_->message());
}

void CoordinatorService::TryLeave() {
  if (left_) return;
  const absl::Time now = absl::Now();
  // Who has been silent for longer than this will not ask any more.
  constexpr absl::Duration kSilent = absl::Seconds(5);
  const bool all_told = std::all_of(members_.begin(), members_.end(), [&](const auto& entry) {
    return entry.second.told || now - entry.second.heard > kSilent;
  });
  if ((!all_told && now < leave_by_) || writing_plan_) return;
  left_ = true;
  options_.ended(*over_, progress_.Summary(PeakMemory()));
}

std::map<std::string, MemoryUse> CoordinatorService::PeakMemory() const {
  std::map<std::string, MemoryUse> peaks = {{"coordinator", {.process_bytes = PeakMemoryBytes()}}};
  for (const auto& [key, member] : members_) {
    MemoryUse& use = peaks[member.name];  // a name may have had several lives
    use.process_bytes = std::max(use.process_bytes, member.peak_memory_bytes);
    use.allocated_bytes = std::max(use.allocated_bytes, member.allocated_peak_bytes);
    use.predicted_bytes = Predicted(member.name);
    if (key.first != Role::kWorker) continue;
    use.by_kind = member.at_peak;
    use.place = options_.memory.worker_place;
  }
  return peaks;
}

}  // namespace sdp

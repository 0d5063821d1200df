// Coordinator: who is let in, and the first view.
#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/hash.h"
#include "common/base/natural_order.h"
#include "common/plan/rescale.h"
#include "server/coordinator/logic/coordinator.h"

namespace sdp {
namespace {

absl::Status OtherConfig(const std::string& name, const std::string& theirs,
                         const std::string& ours) {
  return absl::FailedPreconditionError(absl::StrCat(name, " has config hash ", theirs,
                                                    ", this run has ", ours,
                                                    ": start it with the same configuration"));
}

}  // namespace

CoordinatorActions Coordinator::RegisterShard(const ShardRegistration& registration,
                                              absl::Time now) {
  CoordinatorActions actions;
  if (phase_ == Phase::kOver)
    return actions;  // it asks again: the next generation, if there is one
  const auto refuse = [&](absl::Status status) {
    actions.log.push_back(absl::StrCat("refused ", registration.name, ": ", status.message()));
    actions.admit_shards.push_back(
        {registration.name, registration.instance, registration.address, std::move(status)});
    return actions;
  };
  if (registration.config_hash != options_.config_hash) {
    return refuse(OtherConfig(registration.name, registration.config_hash, options_.config_hash));
  }
  if (phase_ != Phase::kShards) {
    for (size_t s = 0; s < shards_.size(); ++s) {
      if (shards_[s].registration.name != registration.name) continue;
      if (shards_[s].registration.instance == registration.instance) {
        AdmitShard(ShardId(static_cast<int32_t>(s)), &actions);
      } else {
        RegisterSuccessor(shards_[s], registration, now, &actions);
      }
      return actions;
    }
    return refuse(absl::FailedPreconditionError(
        absl::StrCat("the run has its ", options_.shards, " shards (cluster.shards)")));
  }
  ShardState& shard = registered_shards_[registration.name];
  if (shard.registration.instance != registration.instance) {
    actions.log.push_back(
        absl::StrCat(registration.name, " registered from ", registration.address));
  }
  shard.registration = registration;
  shard.heard = now;
  Progress(now);
  if (static_cast<int>(registered_shards_.size()) == options_.shards) AdmitShards(now, &actions);
  return actions;
}

// Probably the one before is gone, and its lease will show it. Should it live, the new one is
// refused: only one has the parameters.
void Coordinator::RegisterSuccessor(ShardState& shard, const ShardRegistration& registration,
                                    absl::Time now, CoordinatorActions* actions) {
  if (registration.before == shard.registration.instance) {
    return GoBack(absl::StrCat(registration.name, " has come back without its parameters"), now,
                  actions);
  }
  if (shard.successor.has_value() && shard.successor->instance == registration.instance) return;
  shard.successor = registration;
  shard.succeeds_since = now;
  actions->log.push_back(absl::StrCat("another process has come as ", registration.name,
                                      ", which was heard of ",
                                      absl::FormatDuration(now - shard.heard), " ago"));
}

void Coordinator::AdmitShards(absl::Time now, CoordinatorActions* actions) {
  std::vector<std::string> names;
  for (const auto& [name, shard] : registered_shards_) names.push_back(name);
  std::sort(names.begin(), names.end(),
            [](const std::string& a, const std::string& b) { return NaturalLess(a, b); });
  // Whoever is no shard, and has not come since, is a worker that is not to be waited for.
  for (const std::string& name : ended_early_) {
    if (!registered_shards_.contains(name) && workers_.Find(name) == nullptr) AwaitOneLess();
  }
  for (const std::string& name : names) shards_.push_back(std::move(registered_shards_.at(name)));
  registered_shards_.clear();
  for (size_t s = 0; s < shards_.size(); ++s) shards_[s].fragments = owned_[s].size();
  phase_ = Phase::kStarting;
  const GenerationStart& start = options_.start;
  Persist(GenerationRecord{generation_, term_, options_.config_hash, start.state.step,
                           start.state.init_path, start.init_checksum, options_.coverage,
                           start.reshuffles},
          {}, actions);
  for (size_t s = 0; s < shards_.size(); ++s) AdmitShard(ShardId(static_cast<int32_t>(s)), actions);
  for (const auto& [name, worker] : workers_) AdmitWorker(worker, actions);
  for (size_t s = 0; s < shards_.size(); ++s) {
    if (start.leaving.contains(shards_[s].registration.before))
      actions->Append(LeaveShard(ShardId(static_cast<int32_t>(s)), now));
  }
}

void Coordinator::AdmitShard(ShardId shard, CoordinatorActions* actions) {
  const ShardRegistration& registration = shards_[static_cast<size_t>(shard.value())].registration;
  CoordinatorActions then;
  then.admit_shards.push_back(
      {registration.name, registration.instance, registration.address, AdmissionOf(shard)});
  Persist(ShardRecord{shard, registration.name, registration.address, registration.instance},
          std::move(then), actions);
}

ShardAdmission Coordinator::AdmissionOf(ShardId shard) const {
  StartState start = options_.start.state;
  for (const double coverage : options_.coverage) {
    start.factors.push_back(EvaluationFactor(options_.rescale, coverage));
  }
  return {shard,         options_.shards,  generation_,
          term_,         std::move(start), options_.checkpoints,
          options_.steps};
}

CoordinatorActions Coordinator::RegisterWorker(const WorkerRegistration& registration,
                                               absl::Time now) {
  CoordinatorActions actions;
  if (phase_ == Phase::kOver) return actions;  // as with shards
  const auto refuse = [&](absl::Status status) {
    actions.log.push_back(absl::StrCat("refused ", registration.name, ": ", status.message()));
    actions.admit_workers.push_back({registration.name, registration.instance, std::move(status)});
    return actions;
  };
  if (registration.config_hash != options_.config_hash) {
    return refuse(OtherConfig(registration.name, registration.config_hash, options_.config_hash));
  }
  if (absl::Status room = CheckMemory(registration); !room.ok()) return refuse(std::move(room));
  const WorkerState* const known = workers_.Find(registration.name);
  const bool same = known != nullptr && known->registration.instance == registration.instance;
  if (!same) {
    if (phase_ >= Phase::kEnding) return refuse(absl::FailedPreconditionError("the run ends"));
    if (known == nullptr && options_.max_workers > 0 &&
        static_cast<int>(workers_.size()) >= options_.max_workers) {
      return refuse(absl::FailedPreconditionError(absl::StrCat(
          "the run has its ", options_.max_workers, " workers (cluster.max_workers)")));
    }
    if (known != nullptr && registration.before != 0 &&
        registration.before != known->registration.instance) {
      return refuse(absl::FailedPreconditionError("another process has come under its name"));
    }
    if (known != nullptr) {
      Exclude(registration.name,
              registration.before == known->registration.instance
                  ? "it has come back as another incarnation"
                  : "another process has come under its name",
              &actions);
      MembersChanged(now, &actions);
    }
    last_incarnation_ = Incarnation(last_incarnation_.value() + 1);
    workers_.Add(registration, last_incarnation_, now);
    Tell({.kind = RunEvent::Kind::kJoin,
          .worker = registration.name,
          .incarnation = last_incarnation_},
         &actions);
  }
  WorkerState& worker = *workers_.Find(registration.name);
  worker.heard = now;
  if (!shards_.empty()) AdmitWorker(worker, &actions);
  return actions;
}

// Whether it could train at all: the units that everyone holds, with one sample.
absl::Status Coordinator::CheckMemory(const WorkerRegistration& registration) const {
  const bool known = options_.memory != nullptr && options_.memory->stages != nullptr;
  if (!known || registration.memory_bytes == 0) return absl::OkStatus();
  std::vector<UnitId> shared;
  for (size_t unit = 0; unit < options_.catalog->units.size(); ++unit) {
    if (options_.catalog->units[unit].shared) shared.push_back(UnitId(static_cast<int32_t>(unit)));
  }
  const MemoryPeak least = TrainingMemory(*options_.catalog, shared, *options_.memory, 1);
  if (least.bytes <= registration.memory_bytes) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(registration.name, " has ", registration.memory_bytes,
                   " bytes of memory; the units that every worker holds take ", least.bytes, " (",
                   least.when, ", one sample)"));
}

void Coordinator::AdmitWorker(const WorkerState& worker, CoordinatorActions* actions) {
  const WorkerRegistration& registration = worker.registration;
  CoordinatorActions then;
  // Filled when it is answered: each of thousands that wait for the store would have a copy of the
  // lists.
  then.admit_workers.push_back(
      {registration.name, registration.instance,
       WorkerAdmission{worker.incarnation, generation_, term_, {}, {}, {}}});
  Persist(MemberRecord{worker.incarnation, registration.name, registration.instance,
                       registration.memory_bytes},
          std::move(then), actions);
}

void Coordinator::FillAdmission(WorkerAdmission& admission) const {
  admission.coverage = options_.coverage;
  admission.reshuffles = options_.start.reshuffles;
  for (const ShardState& shard : shards_) admission.shards.push_back(shard.registration.address);
}

std::string Coordinator::NameOf(Incarnation incarnation) const {
  const WorkerState* const worker = workers_.Find(incarnation);
  return worker == nullptr ? absl::StrCat("incarnation ", incarnation.value())
                           : worker->registration.name;
}

absl::Status Coordinator::NotInTheRun(Incarnation incarnation) {
  return absl::AbortedError(
      absl::StrCat("incarnation ", incarnation.value(), " is not in the run: register again"));
}

CoordinatorActions Coordinator::Ready(Incarnation incarnation, const DataSummary& data,
                                      absl::Time now, absl::Status* error) {
  CoordinatorActions actions;
  *error = absl::OkStatus();
  WorkerState* const worker = workers_.Find(incarnation);
  if (worker == nullptr) {
    *error = NotInTheRun(incarnation);
    return actions;
  }
  worker->heard = now;
  if (worker->ready) return actions;
  const std::string& name = worker->registration.name;
  if (data_.has_value() && !(*data_ == data)) {
    *error = absl::FailedPreconditionError(
        absl::StrCat(name, " has other data than the run: ", data.train_samples,
                     " training samples with checksum ", HashText(data.train_checksum), " and ",
                     data.validation_samples, " validation samples with checksum ",
                     HashText(data.validation_checksum), "; the run has ", data_->train_samples,
                     " with ", HashText(data_->train_checksum), " and ", data_->validation_samples,
                     " with ", HashText(data_->validation_checksum)));
    Tell({.kind = RunEvent::Kind::kLetGo,
          .worker = name,
          .incarnation = incarnation,
          .reason = std::string(error->message())},
         &actions);
    workers_.Erase(std::string(name));  // which is its own
    return actions;
  }
  if (!data_.has_value()) Persist(DataRecord{data}, {}, &actions);
  data_ = data;
  workers_.SetReady(*worker);
  last_arrival_ = now;
  Progress(now);
  Tell({.kind = RunEvent::Kind::kReady,
        .worker = name,
        .incarnation = incarnation,
        .workers = workers_.ready()},
       &actions);
  MakeView(now, &actions);
  TryBind(now, &actions);
  return actions;
}

bool Coordinator::EnoughForAView(absl::Time now) const {
  const int ready = workers_.ready();
  if (ready >= awaited_) return true;
  return now - last_arrival_ > options_.view_timeout &&
         ready >= LeastWorkers(options_.start.state.step);
}

bool Coordinator::GoesOn() const {
  return options_.start.goes_on || first_bound_ != absl::InfinitePast();
}

// A run that begins has a plan for all, also of later phases, before hours are spent on those
// before them. One that goes on does without the smallest memories, who may join later.
absl::Status Coordinator::PlanFirstView(std::vector<Incarnation> members) {
  const Step first = options_.start.state.step;
  const auto memory = [this](Incarnation member) {
    const int64_t bytes = workers_.Find(member)->registration.memory_bytes;
    return bytes > 0 ? bytes : std::numeric_limits<int64_t>::max();
  };
  view_ = ViewOf(members);
  absl::Status status = MakePlanAt(FirstPlanned());
  if (!GoesOn()) {
    for (const CoveragePhase& next : options_.phases) {
      if (status.ok() && next.from > first && next.from < options_.steps)
        status = MakePlan(PlanInputAt(next.from)).status();
    }
    return status;
  }
  const absl::Status of_all = status;
  while (!status.ok() && static_cast<int>(members.size()) > LeastWorkers(first)) {
    members.erase(std::min_element(members.begin(), members.end(),
                                   [&](auto a, auto b) { return memory(a) < memory(b); }));
    view_ = ViewOf(members);
    status = MakePlanAt(FirstPlanned());
  }
  return status.ok() ? status : of_all;
}

void Coordinator::MakeView(absl::Time now, CoordinatorActions* actions) {
  if (phase_ != Phase::kWorkers) return;
  no_plan_.clear();
  if (!EnoughForAView(now)) return;
  std::vector<std::pair<std::string, Incarnation>> order;
  for (const auto& [name, worker] : workers_) {
    if (worker.ready) order.emplace_back(name, worker.incarnation);
  }
  std::sort(order.begin(), order.end(),
            [](const auto& a, const auto& b) { return NaturalLess(a.first, b.first); });
  std::vector<Incarnation> members;
  for (const auto& [name, incarnation] : order) members.push_back(incarnation);
  Unfit& unfit = unfit_[static_cast<size_t>(Joiners::kIn)];
  const int phase = PhaseAt(options_.phases, FirstPlanned());
  const bool known = members == unfit.members && phase == unfit.phase;
  const std::vector<Incarnation> all = members;
  const absl::Status status =
      known ? absl::FailedPreconditionError(unfit.why) : PlanFirstView(std::move(members));
  if (!status.ok() && !GoesOn()) return End(status, actions);
  if (!status.ok()) {
    no_plan_ = std::string(status.message());
    unfit = {all, phase, no_plan_};
    if (!known) TellNoPlan(all.size(), options_.start.state.step, actions);
    view_ = nullptr;
    return;
  }
  phase_ = Phase::kTraining;
  levelled_at_ = next_step_;
  AdoptView(next_step_, "", actions);
  last_commit_ = checkpoint_bound_at_ = now;
  if (first_bound_ == absl::InfinitePast()) first_bound_ = now;
  Progress(now);
}

}  // namespace sdp

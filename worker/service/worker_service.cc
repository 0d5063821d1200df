#include "worker/service/worker_service.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/allocated.h"
#include "common/base/status.h"
#include "common/rpc/channel.h"

namespace sdp {

WorkerService::WorkerService(Options options, LocalModel* model)
    : options_(std::move(options)), model_(model) {}

WorkerService::~WorkerService() { loop_.Stop(); }

void WorkerService::End(absl::Status status) {
  MutexLock lock(&mutex_);
  if (!end_.has_value()) end_ = std::move(status);
}

void WorkerService::Leave(absl::Duration grace, const std::string& why) {
  loop_.Post([this, grace, why] {
    if (worker_ == nullptr || grace <= absl::ZeroDuration()) return End(absl::CancelledError(why));
    spdlog::info("leaving: {}", why);
    leaving_ = true;
    SayLeave();
    loop_.PostAt(absl::Now() + grace, [this, why] {
      End(absl::CancelledError(absl::StrCat(why, ", and what was bound was not finished in time")));
    });
  });
}

void WorkerService::SayLeave() {
  client_->Leave(admission_.incarnation, [this](const absl::Status& status) {
    if (!status.ok()) End(Context(status, "leave"));
  });
}

// It knows who we are, and what we are bound to; what we said it may not know.
void WorkerService::CoordinatorRestarted() {
  spdlog::warn("the coordinator was started again");
  if (ready_said_) {
    client_->Ready(admission_.incarnation, options_.data, [this](const absl::Status& status) {
      if (!status.ok()) End(Context(status, "get ready again"));
    });
  }
  if (leaving_) SayLeave();
  Do(worker_->CoordinatorRestarted());
}

absl::Status WorkerService::Run() {
  if (options_.board != nullptr) {
    options_.board->Begin(absl::Now());
    loop_.Post([this] { ShowStatus(); });
  }
  loop_.Post([this] { Register(); });
  absl::Status end;
  {
    MutexLock lock(&mutex_);
    auto over = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return end_.has_value(); };
    // Each wait below this one has a deadline that ends in End().
    mutex_.AwaitWithDeadline(absl::Condition(&over), absl::InfiniteFuture());
    end = *end_;
  }
  loop_.Stop();
  // The loop is at rest: what was confined to it may go here.
  heartbeats_.reset();
  compute_.reset();
  streams_.reset();
  client_.reset();
  return end;
}

void WorkerService::Register() {
  auto channel = MakeChannel(options_.coordinator, options_.security);
  if (!channel.ok()) return End(channel.status());
  CoordinatorClient::Options options;
  options.address = options_.coordinator;
  options.unreachable_after = patience();
  options.gone_after = options_.gone_after;
  options.on_report_error = [this](const absl::Status& status) {
    End(Context(status, "report to the coordinator"));
  };
  options.on_restarted = [this] { CoordinatorRestarted(); };
  options.on_waiting = [](const std::string& what) { spdlog::info("waiting: {}", what); };
  client_ = std::make_unique<CoordinatorClient>(*channel, &loop_, std::move(options));
  client_->RegisterWorker({options_.name, options_.config_hash, options_.instance, options_.before,
                           options_.memory_bytes},
                          [this](const absl::StatusOr<WorkerAdmission>& admission) {
                            if (!admission.ok())
                              return End(Context(admission.status(), "register"));
                            Admitted(*admission);
                          });
}

void WorkerService::Admitted(const WorkerAdmission& admission) {
  spdlog::info("admitted: incarnation {}, generation {}, {} shards", admission.incarnation.value(),
               admission.generation.value(), admission.shards.size());
  admission_ = admission;
  worker_ = std::make_unique<Worker>(options_.worker, admission, options_.data);
  compute_ =
      std::make_unique<ComputeThread>(model_, &loop_, ComputeEvents(), options_.take_timeout);

  auto own_connection = MakeChannel(options_.coordinator, options_.security, Sockets::kOwn);
  if (!own_connection.ok()) return End(own_connection.status());
  Heartbeats::Options heartbeats;
  heartbeats.address = options_.coordinator;
  heartbeats.generation = admission.generation;
  heartbeats.unreachable_after = options_.gone_after;
  heartbeats.restarted = [this] { loop_.Post([this] { CoordinatorRestarted(); }); };
  heartbeats_ = std::make_unique<Heartbeats>(
      *own_connection, admission.incarnation,
      [this] {
        const AllocatedBytes allocated = Allocated(options_.computes);
        Heartbeats::State state;
        state.peak_memory_bytes = PeakMemoryBytes();
        state.allocated_peak_bytes = allocated.peak;
        state.allocated_bytes = allocated.now;
        if (options_.board != nullptr) {
          state.address = options_.board->address();
          state.metrics_address = options_.board->metrics_address();
        }
        MutexLock lock(&mutex_);
        state.phase = phase_;
        state.waits = waits_;
        return state;
      },
      [this](absl::Status status) {
        // The coordinator's reason stands for itself; a member only repeats it.
        End(std::move(status));
      },
      heartbeats);

  connected_.assign(admission.shards.size(), false);
  broken_since_.assign(admission.shards.size(), absl::Now());
  ShardStreams::Options streams;
  streams.layout = options_.worker.layout;
  streams.name = {admission.generation, admission.incarnation, options_.instance};
  streams.addresses = admission.shards;
  streams.security = options_.security;
  streams.pull_type = options_.precision;
  auto opened = ShardStreams::Create(std::move(streams), StreamEvents(), &loop_);
  if (!opened.ok()) return End(opened.status());
  streams_ = *std::move(opened);
}

void WorkerService::Connected(ShardId shard) {
  const size_t number = static_cast<size_t>(shard.value());
  connected_[number] = true;
  broken_since_[number] = absl::InfiniteFuture();
  if (started_) return Do(worker_->Reconnected(shard));
  if (!ready_said_ && std::find(connected_.begin(), connected_.end(), false) == connected_.end())
    SayReady();
}

void WorkerService::Disconnected(ShardId shard, const absl::Status& why) {
  const size_t number = static_cast<size_t>(shard.value());
  broken_since_[number] = std::min(broken_since_[number], absl::Now());
  const absl::Duration broken = absl::Now() - broken_since_[number];
  spdlog::warn("shard {} at {}: {}", shard.value(), admission_.shards[number], why.ToString());
  // In the run it is in the others' way, who may reach the shard. It comes back, and is a member
  // again once it has reached all.
  if (broken <= (started_ ? options_.unreachable_after : patience())) return;
  const std::string message = absl::StrCat(
      "shard ", shard.value(), " at ", admission_.shards[number], " could not be reached for ",
      absl::FormatDuration(absl::Trunc(broken, absl::Seconds(1))), ": ", why.message());
  End(started_ ? absl::AbortedError(message) : absl::UnavailableError(message));
}

void WorkerService::SayReady() {
  ready_said_ = true;
  client_->Ready(admission_.incarnation, options_.data, [this](const absl::Status& status) {
    if (!status.ok()) return End(Context(status, "ready"));
    started_ = true;
    if (options_.board != nullptr) options_.board->HangUp(Status(absl::Now()), absl::Now());
    spdlog::info("ready");
    Do(worker_->Start());
  });
}

// Carries out what the logic wants, in the order of WorkerActions' fields.
void WorkerService::Do(WorkerActions actions) {
  const Incarnation me = admission_.incarnation;
  for (const auto& ask : actions.ask) {
    client_->BeginStep(
        me, ask.step, ask.known_plan, [this, ask](const absl::StatusOr<WorkerBinding>& binding) {
          if (!binding.ok())
            return End(Context(binding.status(), absl::StrCat("begin step ", ask.step)));
          Do(worker_->OnBinding(*binding, absl::Now()));
        });
  }
  for (const auto& pull : actions.pulls) streams_->Pull(pull.shard, pull.request);
  for (const auto& push : actions.pushes) Push(push);
  for (const auto& done : actions.done) streams_->Done(done.shard, done.reads);
  for (auto& unit : actions.units)
    compute_->UnitHere(unit.step, unit.unit, std::move(unit.fragments));
  for (EvaluateTask& task : actions.evaluate) compute_->Add(std::move(task));
  for (DenseTask& task : actions.dense) compute_->Add(std::move(task));
  for (TrainTask& task : actions.train) compute_->Add(std::move(task));
  for (StepReport& report : actions.reports) {
    report.peak_memory_bytes = PeakMemoryBytes();
    // One reading: its kinds add up to the peak.
    report.ledger = AllocatedByKind(options_.computes);
    report.allocated_peak_bytes = absl::c_accumulate(report.ledger.peak, int64_t{0});
    if (options_.board != nullptr) options_.board->Count(report);
    client_->ReportStep(report);
  }
  for (const EvaluationReport& report : actions.evaluations) client_->ReportEvaluation(report);
  for (const NotFiniteReport& report : actions.not_finite) client_->ReportNotFinite(report);
  if (actions.exit.has_value()) {
    client_->WhenReported([this, exit = *actions.exit](const absl::Status&) { End(exit); });
  }
  MutexLock lock(&mutex_);
  phase_ = worker_->phase();
  waits_ = worker_->waits();
}

void WorkerService::Push(const WorkerActions::Push& push) {
  if (push.delay == absl::ZeroDuration())
    return streams_->Send(push.shard, push.key, push.gradient);
  loop_.PostAt(absl::Now() + push.delay,
               [this, push] { streams_->Send(push.shard, push.key, push.gradient); });
}

ComputeThread::Events WorkerService::ComputeEvents() {
  ComputeThread::Events events;
  events.want = [this](Step step, UnitId unit) { Do(worker_->OnWant(step, unit)); };
  events.backward_begins = [this](Step step) { Do(worker_->OnBackwardBegins(step)); };
  events.released = [this](Step step, UnitId unit) { Do(worker_->OnReleased(step, unit)); };
  events.gradient = [this](Step step, FragmentId fragment, WireBuffer gradient) {
    Do(worker_->OnGradient(step, fragment, std::move(gradient)));
  };
  events.evaluated = [this](Step step, const absl::StatusOr<LossSum>& result) {
    Do(worker_->OnEvaluated(step, result));
  };
  events.dense = [this](Step step, const absl::Status& result) {
    Do(worker_->OnDense(step, result));
  };
  events.trained = [this](Step step, const absl::StatusOr<TrainResult>& result) {
    Do(worker_->OnTrained(step, result, absl::Now()));
  };
  return events;
}

ShardStreams::Events WorkerService::StreamEvents() {
  ShardStreams::Events events;
  events.connected = [this](ShardId shard) { Connected(shard); };
  events.disconnected = [this](ShardId shard, const absl::Status& why) {
    Disconnected(shard, why);
  };
  events.value = [this](Step step, FragmentId fragment, WireBuffer value, int64_t wire_bytes) {
    Do(worker_->OnValue(step, fragment, std::move(value), wire_bytes, absl::Now()));
  };
  events.refused = [this](Step step, FragmentId fragment, Answer answer,
                          const std::string& detail) {
    Do(worker_->OnPullRefused(step, fragment, answer, detail));
  };
  events.push_answer = [this](const PushAnswer& answer) {
    Do(worker_->OnPushAnswer(answer, absl::Now()));
  };
  events.pushed = [this](Step step, int64_t wire_bytes) { worker_->OnPushed(step, wire_bytes); };
  return events;
}

}  // namespace sdp

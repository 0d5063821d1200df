#include "server/shard/service/shard_member.h"

#include <spdlog/spdlog.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/allocated.h"
#include "common/base/status.h"
#include "common/config/config.h"
#include "common/metrics/families.h"
#include "common/metrics/metrics_server.h"
#include "common/rpc/channel.h"
#include "common/rpc/made_on.h"
#include "common/rpc/server.h"
#include "server/shard/service/optimizer_options.h"
#include "server/shard/service/shard_metrics.h"

namespace sdp {
namespace {

// For answers under way when the run ends, so that nobody asks a shard that is gone.
constexpr absl::Duration kGrace = absl::Seconds(2);

}  // namespace

ShardMember::ShardMember(Options options, const RunSetup* setup)
    : options_(std::move(options)),
      setup_(setup),
      start_values_(&setup->catalog, &setup->layout,
                    static_cast<uint64_t>(setup->config.train().seed())) {}

ShardMember::~ShardMember() {
  loop_.Stop();  // now nothing else touches the rest
  heartbeats_ = nullptr;
}

absl::Status ShardMember::Run() {
  SDP_ASSIGN_OR_RETURN(const auto channel, MakeChannel(options_.coordinator, options_.security));
  CoordinatorClient::Options client;
  client.address = options_.coordinator;
  if (options_.before != 0) client.unreachable_after = client.gone_after;
  client.on_report_error = [this](const absl::Status& status) { End(status); };
  client.on_waiting = [](const std::string& for_what) { spdlog::info("waiting for {}", for_what); };
  coordinator_ = std::make_unique<CoordinatorClient>(channel, &loop_, std::move(client));

  ShardService::Options service;
  service.name = options_.name;
  service.layout = &setup_->layout;
  service.units = setup_->catalog.units.size();
  service.catalog = &setup_->catalog;
  // Two of each worker, while it may have older ones that are not yet known to be broken.
  service.waiting_streams = static_cast<size_t>(4 * setup_->config.cluster().workers() + 64);
  service_ = std::make_unique<ShardService>(
      std::move(service), &loop_, static_cast<CoordinatorLink*>(this), [this] {
        // The coordinator says so when it has all our reports; this only makes sure. If the shard
        // may leave the run, that may go back before they are acknowledged.
        leaving_ = true;
        coordinator_->WhenReported([this](const absl::Status& status) { End(status); });
      });
  HealthService health(Checks());
  SDP_ASSIGN_OR_RETURN(
      const std::unique_ptr<RpcServer> server,
      RpcServer::Start(options_.listen, options_.security, {service_.get(), &health}));
  SDP_ASSIGN_OR_RETURN(
      const std::unique_ptr<HttpServer> metrics,
      ServeMetrics(options_.metrics, options_.security, [this] { return Collect(); }));
  if (metrics != nullptr) metrics_address_ = metrics->address();
  const std::string address = options_.advertise.empty() ? server->address() : options_.advertise;
  spdlog::info("listening at {}", server->address());
  loop_.Post([this, address] { Register(address); });

  absl::Status why = AwaitEnd();
  if (leaving_ && absl::IsAborted(why)) why = absl::OkStatus();  // nobody needs what is here
  server->Shutdown(why.ok() ? kGrace : absl::ZeroDuration());
  return why;
}

std::vector<prometheus::MetricFamily> ShardMember::Collect() {
  proto::ShardStatus status = MadeOn<proto::ShardStatus>(&loop_, absl::Seconds(2), [this] {
                                return service_->Status(proto::GetShardStatusRequest());
                              }).value_or(proto::ShardStatus());
  if (!status.has_memory()) *status.mutable_memory() = MemoryOfThisProcess();  // it is loading
  return FamiliesOf(status);
}

// Loading may keep the loop for minutes: until it is done the process counts as alive all the same.
HealthService::Checks ShardMember::Checks() {
  const HealthService::Ask on_loop = CheckedOn(&loop_, [this] { return service_->Ready(); });
  return {.alive =
              [this, on_loop](HealthService::Answer answer) {
                if (!service_->started()) return answer(absl::OkStatus());
                on_loop(std::move(answer));
              },
          .ready =
              [this, on_loop](HealthService::Answer answer) {
                if (too_late_) return answer(absl::OkStatus());  // there is nothing to do
                if (!service_->started())
                  return answer(absl::UnavailableError(absl::StrCat(
                      options_.name, ": waits to be admitted, or loads its start state")));
                on_loop(std::move(answer));
              }};
}

void ShardMember::Register(const std::string& address) {
  service_->SetAddress(address);
  service_->SetMetricsAddress(metrics_address_);
  ShardRegistration registration;
  registration.name = options_.name;
  registration.address = address;
  registration.config_hash = setup_->config_hash;
  registration.instance = options_.instance;
  registration.before = options_.before;
  coordinator_->RegisterShard(registration,
                              [this](const absl::StatusOr<ShardAdmission>& admission) {
                                const absl::Status& no = admission.status();
                                if (options_.outlives_run && absl::IsOutOfRange(no)) {
                                  spdlog::info("{}", std::string(no.message()));
                                  too_late_ = true;
                                  return;
                                }
                                if (!no.ok()) return End(no);
                                Admitted(*admission);
                              });
}

void ShardMember::Admitted(const ShardAdmission& admission) {
  shard_ = admission.shard;
  // Heartbeats first: loading the start state may take longer than a lease.
  auto own_connection = MakeChannel(options_.coordinator, options_.security, Sockets::kOwn);
  if (!own_connection.ok()) return End(own_connection.status());
  Heartbeats::Options options;
  options.address = options_.coordinator;
  options.generation = admission.generation;
  options.restarted = [this] { loop_.Post([this] { CoordinatorRestarted(); }); };
  heartbeats_ = std::make_unique<Heartbeats>(
      *own_connection, admission.shard,
      [this] {
        const Step step = step_;
        const std::string writing = service_->writing();
        return Heartbeats::State{step < 0          ? "loading the start state"
                                 : writing.empty() ? absl::StrCat("step ", step)
                                                   : absl::StrCat("step ", step, ", ", writing),
                                 PeakMemoryBytes(),
                                 Allocated().peak,
                                 /*waits=*/false,
                                 Allocated().now,
                                 "",  // the coordinator knows it
                                 metrics_address_};
      },
      [this](const absl::Status& status) { End(status); }, std::move(options));

  const RunConfig::Train& train = setup_->config.train();
  Shard::Options logic;
  logic.name = options_.name;
  logic.catalog = &setup_->catalog;
  logic.layout = &setup_->layout;
  logic.shard = admission.shard;
  logic.shards = admission.shards;
  logic.generation = admission.generation;
  logic.term = admission.term;
  logic.first_step = admission.start.step;
  logic.optimizer = OptimizerOptionsOf(train);
  logic.optimizer.steps = admission.steps;  // that all shards have the same
  logic.masking = setup_->masking;
  logic.clip = train.clip_norm() > 0;
  logic.skip_not_finite = train.on_nonfinite() == "skip";
  if (const std::string& buffer = setup_->config.checkpoint().buffer(); !buffer.empty()) {
    const absl::StatusOr<int64_t> bytes = ParseBytes(buffer);
    if (!bytes.ok()) return End(Context(bytes.status(), "checkpoint.buffer"));
    logic.snapshot_bytes = *bytes;
  }
  const absl::Time begin = absl::Now();
  if (const absl::Status opened = start_values_.ReadFrom(admission.start); !opened.ok())
    return End(opened);
  auto shard = std::make_unique<Shard>(
      logic, [this](FragmentId fragment, absl::Span<float> values, OptimizerState& state) {
        start_values_.Fill(fragment, values, state);
      });
  if (!start_values_.status().ok()) return End(start_values_.status());
  spdlog::info("shard {} of {}, generation {}: {} fragments, start state loaded in {}",
               admission.shard.value(), admission.shards, admission.generation.value(),
               shard->owned().size(),
               absl::FormatDuration(absl::Trunc(absl::Now() - begin, absl::Milliseconds(1))));
  service_->Start(admission, std::move(shard));
}

void ShardMember::Leave(absl::Duration grace, const std::string& why) {
  if (grace <= absl::ZeroDuration()) return End(absl::CancelledError(why));
  loop_.Post([this, grace, why] {
    if (!shard_.has_value()) return End(absl::CancelledError(why));
    spdlog::info("leaving: {}", why);
    leaving_ = true;
    SayLeave();
    loop_.PostAt(absl::Now() + grace, [this, why] {
      End(absl::CancelledError(absl::StrCat(why, ", and there was no checkpoint in time")));
    });
  });
}

void ShardMember::SayLeave() {
  coordinator_->Leave(*shard_, [this](const absl::Status& status) {
    if (!status.ok()) End(Context(status, "leave"));
  });
}

// It knows who we are; what we reported and asked it may not know.
void ShardMember::CoordinatorRestarted() {
  spdlog::warn("the coordinator was started again");
  service_->Reconnected();
  if (leaving_) SayLeave();
}

void ShardMember::ReportStepDone(const StepDone& report) {
  step_ = report.step + 1;
  StepDone with_peaks = report;
  with_peaks.peak_memory_bytes = PeakMemoryBytes();
  with_peaks.allocated_peak_bytes = Allocated().peak;
  coordinator_->ReportStepDone(with_peaks);
}

void ShardMember::End(const absl::Status& why) {
  MutexLock lock(&mutex_);
  if (ended_) return;
  ended_ = true;
  why_ = why;
}

absl::Status ShardMember::AwaitEnd() {
  MutexLock lock(&mutex_);
  // The one wait without a deadline of its own: heartbeats end it when the coordinator is out of
  // reach, registering too.
  mutex_.AwaitWithDeadline(absl::Condition(&ended_), absl::InfiniteFuture());
  return why_;
}

}  // namespace sdp

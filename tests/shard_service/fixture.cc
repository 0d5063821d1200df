#include "tests/shard_service/fixture.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>

#include "absl/time/clock.h"
#include "common/rpc/channel.h"
#include "common/rpc/status_code.h"

namespace sdp {
namespace {

UnitSpec Unit(const std::string& name, int tensor, int64_t size) {
  UnitSpec unit;
  unit.name = name;
  unit.kind = name;
  unit.slices = {{tensor, -1, 0, 0}};
  unit.params = size;
  return unit;
}

void SetDeadline(grpc::ClientContext* context) {
  context->set_deadline(std::chrono::system_clock::now() + absl::ToChronoSeconds(kTestDeadline));
}

}  // namespace

Catalog TestCatalog() {
  Catalog catalog;
  catalog.tensors = {{"large", {3 * kTestFragment}, {}, true}, {"small", {301}, {}, true}};
  catalog.units = {Unit("large", 0, 3 * kTestFragment), Unit("small", 1, 301)};
  return catalog;
}

StreamName TestName(int incarnation) {
  return {Generation(1), Incarnation(incarnation), 1000 + static_cast<uint64_t>(incarnation)};
}

void RecordingLink::ReportReduced(const Reduced&) {}

void RecordingLink::ReportDiagnosed(const Diagnosed& report) {
  MutexLock lock(&mutex_);
  diagnosed_.push_back(report);
}

void RecordingLink::ReportStepDone(const StepDone& report) {
  MutexLock lock(&mutex_);
  done_.push_back(report.step);
}

void RecordingLink::ReportNotFinite(const NotFiniteReport& report) {
  MutexLock lock(&mutex_);
  not_finite_.push_back(report);
}

std::optional<Diagnosed> RecordingLink::AwaitDiagnosed() {
  MutexLock lock(&mutex_);
  auto any = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !diagnosed_.empty(); };
  if (!mutex_.AwaitWithDeadline(absl::Condition(&any), absl::Now() + kTestDeadline))
    return std::nullopt;
  return diagnosed_[0];
}

bool RecordingLink::AwaitDone(Step step) {
  MutexLock lock(&mutex_);
  auto done = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return std::find(done_.begin(), done_.end(), step) != done_.end();
  };
  return mutex_.AwaitWithDeadline(absl::Condition(&done), absl::Now() + kTestDeadline);
}

std::vector<NotFiniteReport> RecordingLink::not_finite() const {
  MutexLock lock(&mutex_);
  return not_finite_;
}

TestShard::TestShard(const Catalog* catalog, const Layout* layout, const std::string& listen,
                     const ShardService::Options& limits)
    : catalog_(catalog), layout_(layout) {
  ShardService::Options options = limits;
  options.name = "shard-0";
  options.layout = layout;
  options.units = catalog->units.size();
  service_ = std::make_unique<ShardService>(options, &logic_, &link_, [this] { finished_ = true; });
  auto server = RpcServer::Start(listen, {}, {service_.get()});
  if (!server.ok()) ADD_FAILURE() << server.status();
  server_ = *std::move(server);
  stub_ = proto::Shard::NewStub(MakeChannel(server_->address(), {}).value());
}

TestShard::~TestShard() {
  server_->Shutdown();
  logic_.Stop();
}

void TestShard::Begin(Masking masking) {
  Shard::Options options;
  options.name = "shard-0";
  options.catalog = catalog_;
  options.layout = layout_;
  options.generation = Generation(1);
  options.masking = masking;
  options.optimizer.kind = OptimizerOptions::Kind::kSgd;
  options.optimizer.lr = 1;
  options.optimizer.momentum = 0;
  options.optimizer.weight_decay = 0;
  auto shard = std::make_unique<Shard>(
      options, [](FragmentId id, absl::Span<float> values, OptimizerState&) {
        std::fill(values.begin(), values.end(), static_cast<float>(id.value()));
      });
  ShardAdmission admission;
  admission.shards = 1;
  admission.generation = Generation(1);
  admission.term = Term(1);
  service_->Start(admission, std::move(shard));
  EXPECT_TRUE(link_.AwaitDone(-1));
}

void TestShard::Bind(Step step, int workers, bool evaluate, int members, bool diagnose) {
  proto::BindRequest request;
  request.set_generation(1);
  request.set_view(1);
  request.set_step(step);
  request.set_evaluate(evaluate);
  request.set_diagnose(diagnose);
  auto* holders = request.mutable_holders();
  auto* set = holders->add_sets();
  for (int w = 0; w < std::max(workers, members); ++w) {
    holders->add_members(w + 1);
    holders->add_instances(TestName(w + 1).instance);
    if (w < workers) set->add_ranks(w);
  }
  for (size_t u = 0; u < catalog_->units.size(); ++u) holders->add_set_of_unit(0);

  grpc::ClientContext context;
  SetDeadline(&context);
  proto::ControlResponse response;
  const grpc::Status status = stub_->Bind(&context, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
}

absl::Status TestShard::Exclude(int64_t number, int worker) {
  grpc::ClientContext context;
  SetDeadline(&context);
  proto::ExcludeRequest request;
  request.set_generation(1);
  request.set_number(number);
  request.set_worker(worker);
  proto::ControlResponse response;
  return FromGrpc(stub_->Exclude(&context, request, &response));
}

proto::ShardStatus TestShard::Status() {
  grpc::ClientContext context;
  SetDeadline(&context);
  proto::ShardStatus response;
  const grpc::Status status = stub_->GetStatus(&context, {}, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response;
}

absl::Status TestShard::Finish(int64_t generation) {
  grpc::ClientContext context;
  SetDeadline(&context);
  proto::FinishRequest request;
  request.set_generation(generation);
  proto::ControlResponse response;
  return FromGrpc(stub_->Finish(&context, request, &response));
}

TestWorker::TestWorker(const Layout* layout, const std::vector<std::string>& addresses,
                       WireType push, WireType pull, int incarnation)
    : incarnation_(incarnation), push_type_(push) {
  ShardStreams::Events events;
  events.connected = [this](ShardId) {
    MutexLock lock(&mutex_);
    ++seen_.connected;
  };
  events.disconnected = [this](ShardId, const absl::Status& status) {
    MutexLock lock(&mutex_);
    seen_.disconnected.push_back(status);
  };
  events.value = [this](Step step, FragmentId fragment, WireBuffer value, int64_t bytes) {
    MutexLock lock(&mutex_);
    ++seen_.values_seen;
    seen_.values[{step, fragment.value()}] = std::move(value);
    seen_.pulled_bytes += bytes;
  };
  events.refused = [this](Step, FragmentId fragment, Answer answer, const std::string&) {
    MutexLock lock(&mutex_);
    seen_.refused.emplace_back(fragment.value(), answer);
  };
  events.push_answer = [this](const PushAnswer& answer) {
    MutexLock lock(&mutex_);
    seen_.answers.push_back(answer);
  };
  events.pushed = [this](Step step, int64_t bytes) {
    MutexLock lock(&mutex_);
    seen_.pushed_bytes[step] += bytes;
  };
  ShardStreams::Options options;
  options.layout = layout;
  options.name = TestName(incarnation);
  options.addresses = addresses;
  options.pull_type = pull;
  options.first_pause = absl::Milliseconds(10);
  options.max_pause = absl::Milliseconds(50);
  auto streams = ShardStreams::Create(options, std::move(events), &owner_);
  if (!streams.ok()) ADD_FAILURE() << streams.status();
  streams_ = *std::move(streams);
}

TestWorker::~TestWorker() {
  owner_.Stop();
  streams_ = nullptr;
}

bool TestWorker::Await(const std::function<bool(const Seen&)>& condition) {
  MutexLock lock(&mutex_);
  auto holds = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return condition(seen_); };
  return mutex_.AwaitWithDeadline(absl::Condition(&holds), absl::Now() + kTestDeadline);
}

bool TestWorker::AwaitConnected(int times) {
  return Await([times](const Seen& seen) { return seen.connected >= times; });
}

PushKey TestWorker::Key(Step step, int fragment, int64_t terms, int incarnation) {
  PushKey key;
  key.generation = Generation(1);
  key.view = ViewId(1);
  key.term = Term(1);
  key.step = step;
  key.worker = Incarnation(incarnation);
  key.fragment = FragmentId(fragment);
  key.terms = terms;
  return key;
}

void TestWorker::Push(Step step, int fragment, float gradient, int64_t size, Purpose purpose) {
  const std::vector<float> numbers(static_cast<size_t>(size), gradient);
  PushKey key = Key(step, fragment, 8, incarnation_);
  key.purpose = purpose;
  streams_->Send(ShardId(0), key,
                 std::make_shared<const WireBuffer>(WireBuffer::Rounded(push_type_, numbers)));
}

void TestWorker::Pull(Step step, std::vector<int> fragments) {
  PullRequest request;
  static_cast<RequestKey&>(request) = Key(step, 0, 0, incarnation_);
  for (const int fragment : fragments) request.fragments.emplace_back(fragment);
  streams_->Pull(ShardId(0), request);
}

void TestWorker::Done(Step step) { streams_->Done(ShardId(0), {Key(step, 0, 0, incarnation_)}); }

}  // namespace sdp

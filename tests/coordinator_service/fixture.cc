#include "tests/coordinator_service/fixture.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/rpc/channel.h"

namespace sdp {
namespace {

UnitSpec Unit(const std::string& name, int tensor, int64_t size) {
  UnitSpec unit;
  unit.name = unit.kind = name;
  unit.slices = {{tensor, -1, 0, 0}};
  unit.params = size;
  unit.macs = size;
  return unit;
}

}  // namespace

void MemoryStore::Write(Record record, Done done) {
  absl::Status status;
  {
    MutexLock lock(&mutex_);
    status = error_;
    if (status.ok()) records_.push_back(std::move(record));
    if (holding_) return held_.push_back(std::move(done));
  }
  done(status);
}

void MemoryStore::FailFromNowOn(absl::Status error) {
  MutexLock lock(&mutex_);
  error_ = std::move(error);
}

void MemoryStore::Hold() {
  MutexLock lock(&mutex_);
  holding_ = true;
}

bool MemoryStore::AwaitHeld() {
  MutexLock lock(&mutex_);
  auto holds = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !held_.empty(); };
  return mutex_.AwaitWithDeadline(absl::Condition(&holds), absl::Now() + kTestDeadline);
}

void MemoryStore::LetGo() {
  std::vector<Done> held;
  {
    MutexLock lock(&mutex_);
    holding_ = false;
    held.swap(held_);
  }
  for (const Done& done : held) done(absl::OkStatus());
}

std::vector<Record> MemoryStore::records() {
  MutexLock lock(&mutex_);
  return records_;
}

FakeShard::FakeShard() {
  auto server = RpcServer::Start("127.0.0.1:0", {}, {this});
  if (!server.ok()) ADD_FAILURE() << server.status();
  server_ = *std::move(server);
}

bool FakeShard::AwaitCall(const std::string& call) {
  MutexLock lock(&mutex_);
  auto came = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return std::find(calls_.begin(), calls_.end(), call) != calls_.end();
  };
  return mutex_.AwaitWithDeadline(absl::Condition(&came), absl::Now() + kTestDeadline);
}

void FakeShard::Refuse(grpc::Status status) {
  MutexLock lock(&mutex_);
  answer_ = std::move(status);
}

grpc::Status FakeShard::Bind(grpc::ServerContext*, const proto::BindRequest* request,
                             proto::ControlResponse*) {
  return Take(absl::StrCat(request->closing() ? "closing " : "bind ", request->step()));
}

grpc::Status FakeShard::Finish(grpc::ServerContext*, const proto::FinishRequest*,
                               proto::ControlResponse*) {
  return Take("finish");
}

grpc::Status FakeShard::Take(std::string call) {
  MutexLock lock(&mutex_);
  calls_.push_back(std::move(call));
  return answer_;
}

Member::Member(const std::string& coordinator, absl::Duration poll_timeout) {
  CoordinatorClient::Options options;
  options.address = coordinator;
  options.poll_timeout = poll_timeout;
  options.on_waiting = [this](const std::string&) {
    MutexLock lock(&mutex_);
    ++waits_;
  };
  client_ = std::make_unique<CoordinatorClient>(MakeChannel(coordinator, {}, Sockets::kOwn).value(),
                                                &loop_, options);
}

Member::~Member() {
  loop_.Stop();
  client_.reset();
}

bool Member::AwaitWaits(int count) {
  MutexLock lock(&mutex_);
  auto reached = [this, count]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return waits_ >= count; };
  return mutex_.AwaitWithDeadline(absl::Condition(&reached), absl::Now() + kTestDeadline);
}

template <typename Result, typename Start>
Result Member::Await(Start start) {
  auto result = std::make_shared<std::promise<Result>>();
  auto future = result->get_future();
  loop_.Post(
      [start, result] { start([result](Result got) { result->set_value(std::move(got)); }); });
  if (future.wait_for(absl::ToChronoMilliseconds(kTestDeadline)) != std::future_status::ready) {
    return Result(absl::UnknownError("the test waited too long"));
  }
  return future.get();
}

absl::StatusOr<ShardAdmission> Member::RegisterShard(const std::string& name,
                                                     const std::string& address, uint64_t instance,
                                                     const std::string& config_hash) {
  return Await<absl::StatusOr<ShardAdmission>>([=, this](auto done) {
    client_->RegisterShard({name, address, config_hash, instance}, done);
  });
}

absl::StatusOr<WorkerAdmission> Member::RegisterWorker(const std::string& name, uint64_t instance,
                                                       const std::string& config_hash) {
  return Await<absl::StatusOr<WorkerAdmission>>([=, this](auto done) {
    client_->RegisterWorker({name, config_hash, instance}, done);
  });
}

absl::Status Member::Ready(Incarnation worker, const DataSummary& data) {
  return Await<absl::Status>([=, this](auto done) { client_->Ready(worker, data, done); });
}

absl::StatusOr<WorkerBinding> Member::BeginStep(Incarnation worker, Step step) {
  return Await<absl::StatusOr<WorkerBinding>>(
      [=, this](auto done) { client_->BeginStep(worker, step, -1, done); });
}

std::future<absl::StatusOr<WorkerBinding>> Member::AskStep(Incarnation worker, Step step) {
  auto result = std::make_shared<std::promise<absl::StatusOr<WorkerBinding>>>();
  loop_.Post([=, this] {
    client_->BeginStep(worker, step, -1, [result](absl::StatusOr<WorkerBinding> got) {
      result->set_value(std::move(got));
    });
  });
  return result->get_future();
}

absl::Status Member::Report(const std::function<void(CoordinatorClient&)>& report) {
  return Await<absl::Status>([&, this](auto done) {
    report(*client_);
    client_->WhenReported(done);
  });
}

TestCoordinator::TestCoordinator(StateStore* store, Begin begin) {
  catalog_.tensors = {{"a", {64}, {}, true}, {"b", {32}, {}, true}};
  catalog_.units = {Unit("a", 0, 64), Unit("b", 1, 32)};
  layout_ = std::make_unique<Layout>(catalog_);
  auto run_folder = RunFolder::Create(folder_ / "run");
  if (!run_folder.ok()) ADD_FAILURE() << run_folder.status();
  run_folder_ = *std::move(run_folder);

  CoordinatorService::Options options;
  options.logic.catalog = &catalog_;
  options.logic.layout = layout_.get();
  options.logic.config_hash = kConfigHash;
  options.logic.workers = 2;
  options.logic.coverage = {1, 1};
  options.logic.steps = 2;
  options.logic.global_batch = 4;
  options.logic.tokens_per_sample = 8;
  options.logic.checkpoints = file("checkpoints");
  options.tick = absl::Milliseconds(50);
  options.linger = absl::Milliseconds(500);
  options.print = [this](const std::string& line) {
    MutexLock lock(&mutex_);
    lines_.push_back(line);
  };
  options.log = [](const std::string&) {};
  options.go_back = [](GenerationStart next) -> absl::StatusOr<Beginning> {
    return Beginning{.start = std::move(next), .coverage = {1, 1}, .notes = {}};
  };
  options.ended = [this](absl::Status status, std::string summary) {
    summary_ = std::move(summary);
    ended_.set_value(std::move(status));
  };
  service_ = std::make_unique<CoordinatorService>(
      options, &loop_, store != nullptr ? store : &memory_, run_folder_.get());
  auto server = RpcServer::Start("127.0.0.1:0", {}, {service_->rpc()});
  if (!server.ok()) ADD_FAILURE() << server.status();
  server_ = *std::move(server);
  if (begin == Begin::kNow) service_->Start();
}

TestCoordinator::~TestCoordinator() {
  service_->End(absl::CancelledError("the test is over"));
  EXPECT_EQ(outcome_.wait_for(absl::ToChronoMilliseconds(kTestDeadline)),
            std::future_status::ready);
  server_->Shutdown(absl::Seconds(1));
  loop_.Stop();
}

absl::Status TestCoordinator::Ended() {
  if (outcome_.wait_for(absl::ToChronoMilliseconds(kTestDeadline)) != std::future_status::ready) {
    return absl::UnknownError("the test waited too long");
  }
  return outcome_.get();
}

std::vector<std::string> TestCoordinator::lines() {
  MutexLock lock(&mutex_);
  return lines_;
}

}  // namespace sdp

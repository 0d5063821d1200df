#pragma once

#include <functional>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/mutex.h"
#include "common/control/coordinator_client.h"
#include "common/control/heartbeats.h"
#include "common/model/catalog.h"
#include "common/model/layout.h"
#include "common/rpc/event_loop.h"
#include "common/rpc/server.h"
#include "proto/shard.grpc.pb.h"
#include "server/coordinator/service/service.h"
#include "tests/cluster_process/temp_folder.h"

// A real coordinator behind a real gRPC server with members that are scripts, all in one process.
namespace sdp {

inline constexpr absl::Duration kTestDeadline = absl::Seconds(30);
inline const char* const kConfigHash = "00000000000000aa";

// Takes records at once, unless it is told to hold its answers, or to fail.
class MemoryStore final : public StateStore {
 public:
  void Write(Record record, Done done) override;
  void FailFromNowOn(absl::Status error);
  void Hold();
  bool AwaitHeld();  // until it holds an answer; false: not in time
  void LetGo();
  std::vector<Record> records();

 private:
  Mutex mutex_;
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
  bool holding_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<Done> held_ ABSL_GUARDED_BY(mutex_);
  std::vector<Record> records_ ABSL_GUARDED_BY(mutex_);
};

// The control calls that a shard gets.
class FakeShard final : public proto::Shard::Service {
 public:
  FakeShard();
  const std::string& address() const { return server_->address(); }
  bool AwaitCall(const std::string& call);  // "bind 3", "closing 4", "finish"; false: not in time
  void Refuse(grpc::Status status);

 private:
  grpc::Status Bind(grpc::ServerContext*, const proto::BindRequest* request,
                    proto::ControlResponse*) override;
  grpc::Status Finish(grpc::ServerContext*, const proto::FinishRequest*,
                      proto::ControlResponse*) override;
  grpc::Status Take(std::string call);

  Mutex mutex_;
  grpc::Status answer_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> calls_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<RpcServer> server_;
};

// A member's CoordinatorClient with calls that wait.
class Member {
 public:
  Member(const std::string& coordinator, absl::Duration poll_timeout = absl::Seconds(5));
  ~Member();

  absl::StatusOr<ShardAdmission> RegisterShard(const std::string& name, const std::string& address,
                                               uint64_t instance = 1,
                                               const std::string& config_hash = kConfigHash);
  absl::StatusOr<WorkerAdmission> RegisterWorker(const std::string& name, uint64_t instance = 1,
                                                 const std::string& config_hash = kConfigHash);
  absl::Status Ready(Incarnation worker, const DataSummary& data);
  absl::StatusOr<WorkerBinding> BeginStep(Incarnation worker, Step step);
  // Does not wait; the outcome comes with the future.
  std::future<absl::StatusOr<WorkerBinding>> AskStep(Incarnation worker, Step step);
  // Runs `report` on the client's loop and waits until all is acknowledged.
  absl::Status Report(const std::function<void(CoordinatorClient&)>& report);
  bool AwaitWaits(int count);  // for so many answers that there is none yet; false: not in time

 private:
  template <typename Result, typename Start>
  Result Await(Start start);

  EventLoop loop_{"member"};
  Mutex mutex_;
  int waits_ ABSL_GUARDED_BY(mutex_) = 0;
  std::unique_ptr<CoordinatorClient> client_;
};

// One shard with two fragments, two workers, all units held by both, two steps.
class TestCoordinator {
 public:
  enum class Begin { kNow, kLater };  // later: by service().Start()
  explicit TestCoordinator(StateStore* store = nullptr, Begin begin = Begin::kNow);
  ~TestCoordinator();

  const std::string& address() const { return server_->address(); }
  CoordinatorService& service() { return *service_; }
  MemoryStore& store() { return memory_; }
  std::string file(const std::string& name) const { return folder_ / ("run/" + name); }
  absl::Status Ended();                                    // waits for it
  const std::string& summary() const { return summary_; }  // after Ended
  std::vector<std::string> lines();                        // printed

  static constexpr size_t kFragments = 2;

 private:
  TempFolder folder_;
  Catalog catalog_;
  std::unique_ptr<Layout> layout_;
  MemoryStore memory_;
  std::unique_ptr<RunFolder> run_folder_;
  EventLoop loop_{"coordinator"};
  Mutex mutex_;
  std::vector<std::string> lines_ ABSL_GUARDED_BY(mutex_);
  std::string summary_;
  std::promise<absl::Status> ended_;
  std::shared_future<absl::Status> outcome_{ended_.get_future()};
  std::unique_ptr<CoordinatorService> service_;
  std::unique_ptr<RpcServer> server_;
};

}  // namespace sdp

#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "common/base/mutex.h"
#include "common/model/layout.h"
#include "common/rpc/event_loop.h"
#include "common/rpc/server.h"
#include "common/rpc/stream_name.h"
#include "server/shard/service/shard_service.h"
#include "worker/service/shard_streams.h"

// A real shard behind a real gRPC server, and a worker's streams to it, all in one process.
namespace sdp {

inline constexpr absl::Duration kTestDeadline = absl::Seconds(30);

// One unit of 3 fragments of 700,001 elements (2.8 MB: three parts each), and one of 3 small ones.
Catalog TestCatalog();
inline constexpr int64_t kTestFragment = 700'001;

// As which a worker of the tests' view opens its streams.
StreamName TestName(int incarnation);

// Records what the shard tells the coordinator. Threads: any.
class RecordingLink final : public CoordinatorLink {
 public:
  void ReportReduced(const Reduced& report) override;
  void ReportDiagnosed(const Diagnosed& report) override;
  void ReportStepDone(const StepDone& report) override;
  void ReportStateHashes(const StateHashes&) override {}
  void ReportCheckpoint(const CheckpointPart&) override {}
  void ReportNotFinite(const NotFiniteReport& report) override;

  bool AwaitDone(Step step);                  // false: not in time
  std::optional<Diagnosed> AwaitDiagnosed();  // the first; nullopt: not in time
  std::vector<NotFiniteReport> not_finite() const;

 private:
  mutable Mutex mutex_;
  std::vector<Step> done_ ABSL_GUARDED_BY(mutex_);
  std::vector<NotFiniteReport> not_finite_ ABSL_GUARDED_BY(mutex_);
  std::vector<Diagnosed> diagnosed_ ABSL_GUARDED_BY(mutex_);
};

// Shard 0 of 1, with SGD at lr 1 without momentum and decay: value - mean gradient. Values begin as
// the fragment's number.
class TestShard {
 public:
  // `limits`: of its options, what bounds a peer.
  TestShard(const Catalog* catalog, const Layout* layout, const std::string& listen,
            const ShardService::Options& limits = {});
  ~TestShard();

  const std::string& address() const { return server_->address(); }
  RecordingLink& link() { return link_; }
  bool finished() const { return finished_; }

  void Begin(Masking masking = Masking::kForward);  // without it the shard is not ready
  // Binds `step` with the workers 1..n, who all hold everything, in a view of `members` (0: n).
  void Bind(Step step, int workers, bool evaluate = false, int members = 0, bool diagnose = false);
  absl::Status Exclude(int64_t number, int worker);
  proto::ShardStatus Status();
  absl::Status Finish(int64_t generation);

 private:
  const Catalog* const catalog_;
  const Layout* const layout_;
  RecordingLink link_;
  std::atomic<bool> finished_ = false;
  EventLoop logic_{"shard"};
  std::unique_ptr<ShardService> service_;
  std::unique_ptr<RpcServer> server_;
  std::unique_ptr<proto::Shard::Stub> stub_;
};

// A worker's ShardStreams, with all events recorded. Threads: any.
class TestWorker {
 public:
  TestWorker(const Layout* layout, const std::vector<std::string>& addresses,
             WireType push = WireType::kF32, WireType pull = WireType::kF32, int incarnation = 1);
  ~TestWorker();

  ShardStreams& streams() { return *streams_; }

  struct Seen {
    int connected = 0;
    std::vector<absl::Status> disconnected;
    std::map<std::pair<Step, int>, WireBuffer> values;
    std::vector<std::pair<int, Answer>> refused;
    std::vector<PushAnswer> answers;
    std::map<Step, int64_t> pushed_bytes;
    int64_t pulled_bytes = 0;
    int values_seen = 0;
  };
  // Waits until `condition` holds, which is called with the lock held; false: not in time.
  bool Await(const std::function<bool(const Seen&)>& condition);
  bool AwaitConnected(int times = 1);

  // As worker `incarnation` of the view that TestShard binds.
  static PushKey Key(Step step, int fragment, int64_t terms, int incarnation = 1);
  void Push(Step step, int fragment, float gradient, int64_t size,
            Purpose purpose = Purpose::kTrain);
  void Pull(Step step, std::vector<int> fragments);
  void Done(Step step);

 private:
  const int incarnation_;
  Mutex mutex_;
  Seen seen_ ABSL_GUARDED_BY(mutex_);
  EventLoop owner_{"worker"};
  const WireType push_type_;
  std::unique_ptr<ShardStreams> streams_;
};

}  // namespace sdp

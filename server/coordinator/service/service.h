#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/plan/memory.h"
#include "common/plan/plan.h"
#include "common/plan/report.h"
#include "common/rpc/address.h"
#include "common/rpc/event_loop.h"
#include "common/rpc/shard_client.h"
#include "proto/coordinator.pb.h"
#include "server/coordinator/logic/coordinator.h"
#include "server/coordinator/service/curve_history.h"
#include "server/coordinator/service/long_polls.h"
#include "server/coordinator/service/resume.h"
#include "server/coordinator/service/run_folder.h"
#include "server/coordinator/service/step_line.h"
#include "server/coordinator/service/store.h"

namespace grpc {
class Service;
}

namespace sdp {

// Coordinator, connected: decodes what members ask, calls the logic and executes its actions: the
// store, answers, control calls to shards, the run folder's files, lines for people. When a
// generation is over because a shard was lost, the next one begins here: members hear that theirs
// is over, and register again. Errors: a store or a file that fails, or a shard that refuses a
// control call, ends the run with that error.
// Threads: everything is confined to `loop`; the methods below may be called from any thread. Order
// of ending: the RpcServer's Shutdown, the loop's Stop, then this object, the store's join, and
// last the loop's destructor.
class CoordinatorService {
 public:
  struct Options {
    Coordinator::Options logic;
    ElementBytes element_bytes;  // for plan.json
    MemoryModel memory;          // what the plan's prediction goes by; without stages there is none
    SecurityOptions security;
    uint64_t instance = 1;     // random per process: tells members that it was started again
    int keep_checkpoints = 2;  // complete ones; older ones are removed
    absl::Duration tick = absl::Seconds(1);
    absl::Duration linger =
        absl::Seconds(3);  // after the end: until members have heard of it by their heartbeats
    // Where the generation after a lost shard begins: takes its numbers, finds its checkpoint. On a
    // thread of its own, since it reads checkpoints. Null: such a run ends.
    std::function<absl::StatusOr<Beginning>(GenerationStart)> go_back;
    std::function<void(const std::string&)> print;  // step lines
    std::function<void(const std::string&)> log;    // decisions, for people; from any thread
    // The run is over and everyone told: OK - finished, Cancelled - stopped on request, or the
    // error; and the summary. Called once, on the loop.
    std::function<void(absl::Status, std::string)> ended;
  };

  CoordinatorService(Options options, EventLoop* loop, StateStore* store, RunFolder* folder);
  ~CoordinatorService();
  CoordinatorService(const CoordinatorService&) = delete;
  CoordinatorService& operator=(const CoordinatorService&) = delete;

  grpc::Service* rpc();  // for the RpcServer

  // Who calls before one of these is asked to come again: who the members are is not known yet.
  void Start();
  // Instead of Start, as Coordinator::Restore.
  void Restore(std::vector<sdp::Record> records, Coordinator::Written written);
  void Stop(const std::string& reason);  // as Coordinator::Stop
  void End(const absl::Status& status);  // at once, in the middle of whatever is going on

  // Where its /metrics and its status page are, for status; "": nowhere. From any thread.
  void SetHttpAddresses(const std::string& metrics, const std::string& page);

  // ---- On the loop ----
  proto::RunStatus Status(const proto::GetStatusRequest& request) const;
  const CurveHistory& curves() const { return curves_; }
  // OK - it takes members and answers them.
  absl::Status Ready() const;

 private:
  class Rpc;  // rpc.cc: gRPC's reactions, which only post here
  enum class Role { kShard, kWorker };
  using MemberKey = std::pair<Role, int64_t>;  // shard number or incarnation
  struct Member {
    std::string name;
    std::string phase;
    absl::Time heard;
    int64_t peak_memory_bytes = 0;
    int64_t allocated_peak_bytes = 0;
    BytesByKind at_peak = {};  // of a worker, with its newest step report
    bool told = false;         // that the run is over
    // What it says of itself, for status.
    absl::Time phase_since = absl::InfiniteFuture();  // as heard
    bool waits = false;
    int64_t memory_bytes = 0, allocated_bytes = 0;
    std::string address = "", metrics_address = "";
    StepReport report = {};  // of a worker, its newest
  };
  using Applicant = std::pair<std::string, uint64_t>;  // name, instance
  using Question = std::pair<Incarnation, Step>;

  // Requests, on the loop: requests.cc
  void OnRegisterShard(const proto::RegisterShardRequest& request,
                       const Pending<proto::RegisterShardResponse>& pending);
  void OnRegisterWorker(const proto::RegisterWorkerRequest& request,
                        const Pending<proto::RegisterWorkerResponse>& pending);
  absl::Status OnReady(const proto::ReadyRequest& request);
  absl::Status OnLeave(const proto::LeaveRequest& request);
  absl::Status OnDrain(const proto::DrainRequest& request);
  absl::Status OnTakeCheckpoint(proto::TakeCheckpointResponse* response);
  void OnBeginStep(const proto::BeginStepRequest& request,
                   const Pending<proto::BeginStepResponse>& pending);
  absl::Status OnReduced(const proto::ReducedReport& report);
  absl::Status OnDiagnosed(const proto::DiagnosedReport& report);
  absl::Status OnStepDone(const proto::StepDoneReport& report);
  absl::Status OnStateHashes(const proto::StateHashesReport& report);
  absl::Status OnCheckpoint(const proto::CheckpointReport& report);
  absl::Status OnStep(const proto::WorkerStepReport& report);
  absl::Status OnEvaluation(const proto::WorkerEvaluationReport& report);
  absl::Status OnNotFinite(const proto::NotFinite& report);
  absl::Status OnHeartbeat(const proto::HeartbeatRequest& request,
                           proto::HeartbeatResponse* response);
  absl::Status CheckGeneration(int64_t generation) const;
  absl::Status CheckReport(int64_t generation, const MemberKey& member) const;
  absl::Status Over() const;  // the answer to requests after the end
  void AnswerDue();
  std::string WaitingFor() const;

  // status.cc
  void CountStep(const StepMetrics& metrics);
  void CountEvent(const RunEvent& event);
  void WatchWaiting(absl::Time now);
  const Member* FindMember(const RunStatus::Member& member) const;
  void FillProgress(const RunStatus& status, proto::RunStatus* message) const;
  void FillMember(const RunStatus::Member& member, absl::Time now,
                  proto::RunStatus::Member* message) const;
  void FillUnits(int first, proto::RunStatus* message) const;
  void FillHeld(int first, proto::RunStatus* message) const;
  void FillWaits(absl::Time now, proto::RunStatus* message) const;

  // Actions
  void Execute(CoordinatorActions actions);
  void Store(const CoordinatorActions::Store& store);
  void Admit(const CoordinatorActions::AdmitShard& admit);
  void Admit(const CoordinatorActions::AdmitWorker& admit);
  void Bind(const CoordinatorActions::ToWorker& bind);
  void Record(StepMetrics metrics);
  void Record(const RunEvent& event);
  void Complete(const CheckpointManifest& manifest);
  void Abandon(Step checkpoint);
  void WritePlanOnce();
  void PredictMemory(const PlanInput& input, const Plan& plan);
  void WritePlan(PlanInput input, Plan plan);
  void Tick();
  void GoBack(const std::string& why);
  void BeginAgain(const absl::StatusOr<Beginning>& beginning);
  void EndRun(const absl::Status& status);
  void TryLeave();
  int64_t Predicted(const std::string& name) const;  // 0: nothing
  std::map<std::string, MemoryUse> PeakMemory() const;

  const Options options_;
  EventLoop* const loop_;
  StateStore* const store_;
  RunFolder* const folder_;
  const std::unique_ptr<Rpc> rpc_;

  bool begun_ = false;                          // by Start or Restore
  std::unique_ptr<Coordinator> logic_;          // of one generation
  Generation generation_;                       // 0 until shards are admitted
  bool going_back_ = false;                     // between two generations
  int64_t times_back_ = 0;                      // since this process began
  std::optional<std::string> stop_asked_;       // why
  Coordinator::Written restored_;               // with what this process began
  std::unique_ptr<ShardControlClient> shards_;  // made with the first admission
  std::map<MemberKey, Member> members_;         // admitted
  LongPolls<Applicant, proto::RegisterShardResponse> shard_applicants_;
  LongPolls<Applicant, proto::RegisterWorkerResponse> worker_applicants_;
  LongPolls<Question, proto::BeginStepResponse> questions_;
  RunProgress progress_;
  CurveHistory curves_;
  std::deque<std::string> events_;  // the newest lines of events.jsonl
  std::string events_error_;        // why there are no more of them
  std::string curves_error_;        // likewise
  proto::RunStatus::Totals totals_;
  proto::RunStatus::StepTimes step_times_;  // of the newest step
  std::string member_change_;               // the newest that no view has followed yet
  std::string view_reason_;
  Step view_step_ = 0;
  double worst_memory_ratio_ = 0;
  std::string waiting_;  // what the run waits for, as of the last tick, and
  absl::Time waiting_since_;
  std::string metrics_address_, page_address_;
  bool plan_made_ = false;
  bool writing_plan_ = false;                 // nobody leaves before it is there
  std::map<std::string, int64_t> predicted_;  // by name of member
  std::optional<absl::Status> over_;
  absl::Time leave_by_;
  bool left_ = false;
  EventLoop files_{"checkpoints"};  // manifests, removals, plan.json: what takes long; ends first
};

}  // namespace sdp

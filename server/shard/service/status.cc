// ShardService: its status, as people and metrics see it. On the logic's loop; what it costs is
// bounded.
#include <time.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/metrics/families.h"
#include "common/rpc/status_code.h"
#include "server/shard/service/shard_service.h"

namespace sdp {
namespace {

constexpr int64_t kMostUnits = 1024;
constexpr size_t kNamed = 16;  // workers that are waited for

// Of the thread that calls.
double CpuSecondsOfThread() {
  timespec time = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

}  // namespace

absl::Status ShardService::Ready() const {
  if (shard_ != nullptr) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(
      options_.name, " waits for the coordinator to admit it, or loads its parameters"));
}

grpc::ServerUnaryReactor* ShardService::GetStatus(Context* context,
                                                  const proto::GetShardStatusRequest* request,
                                                  proto::ShardStatus* status) {
  return Control(context, [this, request, status](Shard&) {
    *status = Status(*request);
    return absl::OkStatus();
  });
}

grpc::ServerWriteReactor<proto::ShardStatus>* ShardService::WatchStatus(
    Context*, const proto::WatchShardStatusRequest* request) {
  return watchers_.Watch(request->options(),
                         [this, wanted = request->status()] { return Status(wanted); });
}

proto::ShardStatus ShardService::Status(const proto::GetShardStatusRequest& request) const {
  proto::ShardStatus status;
  status.set_name(options_.name);
  status.set_address(address_);
  status.set_metrics_address(metrics_address_);
  *status.mutable_memory() = MemoryOfThisProcess();
  status.set_peak_memory_bytes(status.memory().resident_peak_bytes());
  status.set_allocated_peak_bytes(status.memory().allocated_peak_bytes());
  status.set_push_streams(workers_.count(WorkerStreams::Kind::kPush));
  status.set_pull_streams(workers_.count(WorkerStreams::Kind::kPull));
  status.set_waiting_streams(workers_.waiting());
  status.set_incoming_bytes(incoming_->used());
  status.set_logic_cpu_sec(CpuSecondsOfThread());
  if (shard_ == nullptr) {
    proto::Wait* const wait = status.add_waits();
    wait->set_who(options_.name);
    wait->set_for_what("the coordinator to admit it, or its parameters to be loaded");
    return status;
  }
  FillCounts(&status);
  FillWaits(&status);
  if (request.blocks()) FillBlocks(request.first_unit(), &status);
  return status;
}

void ShardService::FillCounts(proto::ShardStatus* status) const {
  const Shard::Counts counts = shard_->counts();
  int64_t parameters = 0;
  Step newest = counts.oldest_version;
  for (const FragmentId fragment : shard_->owned()) {
    parameters += options_.layout->fragment(fragment).size;
    newest = std::max(newest, shard_->version(fragment));
  }
  status->set_shard(admission_.shard.value());
  status->set_shards(admission_.shards);
  status->set_generation(admission_.generation.value());
  status->set_term(admission_.term.value());
  status->set_fragments(static_cast<int64_t>(shard_->owned().size()));
  status->set_parameters(parameters);
  status->set_oldest_version(counts.oldest_version);
  status->set_newest_version(newest);
  status->set_value_bytes(counts.value_bytes);
  status->set_optimizer_bytes(counts.optimizer_bytes);
  status->set_retained_bytes(counts.retained_bytes);
  status->set_round_bytes(counts.round_bytes);
  status->set_snapshot_bytes(counts.snapshot_bytes);
  status->set_open_rounds(counts.open_rounds);
  status->set_pending_pulls(counts.pending_pulls);
  status->set_uncovered_fragment_steps(counts.uncovered_fragment_steps);
  const absl::Time now = absl::Now();
  if (step_done_at_ < now) status->set_step_sec(absl::ToDoubleSeconds(now - step_done_at_));
}

void ShardService::FillWaits(proto::ShardStatus* status) const {
  const std::vector<Incarnation> missing = shard_->awaited(kNamed + 1);
  if (!missing.empty()) {
    proto::Wait* const wait = status->add_waits();
    wait->set_who(options_.name);
    wait->set_for_what(absl::StrCat("contributions to step ", status->oldest_version()));
    for (size_t i = 0; i < std::min(missing.size(), kNamed); ++i)
      wait->add_whom(absl::StrCat("worker incarnation ", missing[i].value()));
    wait->set_more(missing.size() > kNamed ? 1 : 0);
    wait->set_since_sec(status->step_sec());
  }
  if (const std::string disk = writing(); !disk.empty()) {
    proto::Wait* const wait = status->add_waits();
    wait->set_who(options_.name);
    wait->set_for_what(disk);
    wait->set_since_sec(status->step_sec());
  }
}

void ShardService::FillBlocks(int first, proto::ShardStatus* status) const {
  for (const Shard::BlockState& state : shard_->blocks(UnitId(std::max(first, 0)), kMostUnits)) {
    proto::ShardStatus::Block* const block = status->add_blocks();
    block->set_unit(state.unit.value());
    if (options_.catalog != nullptr) block->set_name(options_.catalog->unit(state.unit).name);
    block->set_fragments(state.fragments);
    block->set_value_bytes(state.value_bytes);
    block->set_oldest_version(state.oldest_version);
    block->set_newest_version(state.newest_version);
    block->set_open_rounds(state.open_rounds);
    block->set_contributions(state.contributions);
    block->set_holders(state.holders);
    for (size_t i = 0; i < std::min(state.missing.size(), kNamed); ++i)
      block->add_missing(state.missing[i].value());
  }
}

}  // namespace sdp

// WorkerService: what it tells its board. On the loop, twice a second, however many ask.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/control/convert.h"
#include "common/metrics/families.h"
#include "worker/service/worker_service.h"

namespace sdp {
namespace {

constexpr absl::Duration kShownEvery = absl::Milliseconds(500);
constexpr int kNamed = 64;  // units and shards
constexpr int kNamedWaits = 16;

}  // namespace

void WorkerService::ShowStatus() {
  const absl::Time now = absl::Now();
  std::string phase = client_ == nullptr   ? "starting"
                      : worker_ == nullptr ? "waiting to be admitted"
                      : !started_          ? "getting ready"
                                           : worker_->phase();
  if (phase != shown_phase_) {
    shown_phase_ = std::move(phase);
    phase_since_ = now;
  }
  options_.board->HangUp(Status(now), now);
  loop_.PostAt(now + kShownEvery, [this] { ShowStatus(); });
}

proto::WorkerStatus WorkerService::Status(absl::Time now) const {
  proto::WorkerStatus status;
  status.set_coordinator(options_.coordinator);
  status.set_step(-1);
  status.set_phase(shown_phase_);
  status.set_phase_sec(absl::ToDoubleSeconds(now - phase_since_));
  status.set_ready(started_);
  status.set_memory_budget_bytes(options_.memory_bytes);
  *status.mutable_memory() = MemoryOfThisProcess();
  const AllocatedBytes allocated = Allocated(options_.computes);
  status.mutable_memory()->set_allocated_bytes(allocated.now);
  status.mutable_memory()->set_allocated_peak_bytes(allocated.peak);
  *status.mutable_ledger() = ToProto(AllocatedByKind(options_.computes));
  if (worker_ == nullptr) {
    proto::Wait* const wait = status.add_waits();
    wait->set_who(options_.name);
    wait->set_for_what("the coordinator to admit it");
    wait->add_whom(absl::StrCat("the coordinator at ", options_.coordinator));
    wait->set_since_sec(status.phase_sec());
    return status;
  }
  status.set_generation(admission_.generation.value());
  status.set_incarnation(admission_.incarnation.value());
  status.set_step(worker_->step());
  status.set_units(static_cast<int64_t>(worker_->units().size()));
  for (const UnitFactor& unit : worker_->units()) {
    if (status.unit_names_size() == kNamed) break;
    status.add_unit_names(options_.worker.catalog->unit(unit.unit).name);
  }
  const auto awaited = worker_->awaited();
  for (size_t shard = 0; shard < std::min<size_t>(admission_.shards.size(), kNamed); ++shard) {
    proto::WorkerStatus::Connection* const connection = status.add_shards();
    connection->set_shard(static_cast<int32_t>(shard));
    connection->set_address(admission_.shards[shard]);
    connection->set_connected(connected_[shard]);
    if (broken_since_[shard] < now)
      connection->set_broken_sec(absl::ToDoubleSeconds(now - broken_since_[shard]));
    const auto from = awaited.find(ShardId(static_cast<int32_t>(shard)));
    if (from == awaited.end()) continue;
    connection->set_missing_fragments(from->second.fragments);
    connection->set_unacknowledged(from->second.acknowledgements);
  }
  FillWaits(&status);
  return status;
}

void WorkerService::FillWaits(proto::WorkerStatus* status) const {
  if (started_ && !worker_->waits()) return;
  proto::Wait* const wait = status->add_waits();
  wait->set_who(options_.name);
  wait->set_for_what(started_ ? status->phase() : "its shards");
  wait->set_since_sec(status->phase_sec());
  int more = 0;
  for (const auto& shard : status->shards()) {
    const bool owes = shard.missing_fragments() + shard.unacknowledged() > 0;
    if (started_ ? !owes : shard.connected()) continue;
    if (wait->whom_size() == kNamedWaits) {
      ++more;
      continue;
    }
    wait->add_whom(absl::StrCat("shard ", shard.shard(), " at ", shard.address(),
                                shard.connected() ? "" : ", not connected"));
  }
  wait->set_more(more);
}

}  // namespace sdp

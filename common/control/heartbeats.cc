#include "common/control/heartbeats.h"

#include <grpcpp/grpcpp.h>
#include <pthread.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/rpc/status_code.h"
#include "proto/coordinator.grpc.pb.h"

namespace sdp {

Heartbeats::Heartbeats(std::shared_ptr<grpc::Channel> own_connection, Member member,
                       std::function<State()> state, std::function<void(absl::Status)> ended,
                       Options options)
    : channel_(std::move(own_connection)),
      member_(member),
      state_(std::move(state)),
      ended_(std::move(ended)),
      options_(std::move(options)),
      thread_([this] { Run(); }) {}

Heartbeats::~Heartbeats() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
    if (call_ != nullptr) call_->TryCancel();
  }
  thread_.join();
}

void Heartbeats::Run() {
  pthread_setname_np(pthread_self(), "heartbeats");
  const auto stub = proto::Coordinator::NewStub(channel_);
  absl::Time last_answer = absl::Now();
  int failures = 0;  // in a row
  uint64_t coordinator = 0;
  for (;;) {
    const absl::Time begin = absl::Now();
    proto::HeartbeatRequest request;
    request.set_generation(options_.generation.value());
    if (const auto* worker = std::get_if<Incarnation>(&member_)) {
      request.set_worker(worker->value());
    } else {
      request.set_shard(std::get<ShardId>(member_).value());
    }
    State state = state_();
    request.set_phase(std::move(state.phase));
    request.set_peak_memory_bytes(state.peak_memory_bytes);
    request.set_allocated_peak_bytes(state.allocated_peak_bytes);
    request.set_waits(state.waits);
    request.set_memory_bytes(ResidentMemoryBytes());
    request.set_allocated_bytes(state.allocated_bytes);
    request.set_address(std::move(state.address));
    request.set_metrics_address(std::move(state.metrics_address));

    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(begin + options_.call_timeout));
    {
      MutexLock lock(&mutex_);
      if (stopping_) return;
      call_ = &context;
    }
    proto::HeartbeatResponse response;
    const absl::Status status = FromGrpc(stub->Heartbeat(&context, request, &response));
    {
      MutexLock lock(&mutex_);
      call_ = nullptr;
      if (stopping_) return;
    }

    const absl::Time now = absl::Now();
    if (status.ok()) {
      last_answer = now;
      failures = 0;
      if (response.over()) {
        ended_(absl::Status(static_cast<absl::StatusCode>(response.code()), response.reason()));
        return;
      }
      const uint64_t before = std::exchange(coordinator, response.coordinator());
      if (before != 0 && before != coordinator && options_.restarted) options_.restarted();
    } else if (!absl::IsUnavailable(status) && !absl::IsDeadlineExceeded(status)) {
      ended_(status);
      return;
    } else if (++failures; now >= last_answer + options_.unreachable_after) {
      ended_(absl::UnavailableError(absl::StrCat(
          "the coordinator at ", options_.address, " has not answered ", failures,
          " heartbeats in ",
          absl::FormatDuration(absl::Trunc(now - last_answer, absl::Milliseconds(100))),
          "; last: ", status.message())));
      return;
    }

    MutexLock lock(&mutex_);
    mutex_.AwaitWithDeadline(absl::Condition(&stopping_), begin + options_.interval);
    if (stopping_) return;
  }
}

namespace {

// A line of /proc/self/status; `format` reads its kibibytes.
int64_t BytesFromStatus(const char* format) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    int64_t kib = 0;
    if (std::sscanf(line.c_str(), format, &kib) == 1) return kib * 1024;
  }
  return 0;
}

}  // namespace

int64_t PeakMemoryBytes() { return BytesFromStatus("VmHWM: %" SCNd64 " kB"); }

int64_t ResidentMemoryBytes() { return BytesFromStatus("VmRSS: %" SCNd64 " kB"); }

}  // namespace sdp

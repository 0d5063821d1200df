#include "server/coordinator/service/event_file.h"

#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/crc32c.h"
#include "common/base/status.h"
#include "proto/event.pb.h"

namespace sdp {
namespace {

template <typename T>
void AppendLittleEndian(T value, std::string* out) {
  for (size_t byte = 0; byte < sizeof(T); ++byte)
    out->push_back(static_cast<char>(value >> (8 * byte) & 0xff));
}

uint32_t Masked(absl::string_view bytes) {
  const uint32_t crc = Crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

proto::CurveEvent EventAt(Step step, absl::Time now) {
  proto::CurveEvent event;
  event.set_wall_time(absl::ToDoubleSeconds(now - absl::UnixEpoch()));
  event.set_step(step);
  return event;
}

}  // namespace

CurvePoints CurvesOf(const StepMetrics& metrics) {
  CurvePoints points;
  if (metrics.loss.has_value()) points.emplace_back("loss/train", *metrics.loss);
  if (metrics.full_loss.has_value()) points.emplace_back("loss/full", *metrics.full_loss);
  if (metrics.full_accuracy.has_value())
    points.emplace_back("accuracy/full", *metrics.full_accuracy);
  if (!metrics.trains()) return points;
  if (metrics.skipped.empty()) points.emplace_back("gradient/norm", metrics.gradient_norm);
  points.emplace_back("members/workers", metrics.workers);
  const double elapsed = absl::ToDoubleSeconds(metrics.elapsed);
  if (elapsed > 0 && metrics.elapsed < absl::InfiniteDuration()) {
    points.emplace_back("throughput/samples_per_sec",
                        static_cast<double>(metrics.samples) / elapsed);
    if (metrics.tokens > 0)
      points.emplace_back("throughput/tokens_per_sec",
                          static_cast<double>(metrics.tokens) / elapsed);
    points.emplace_back("time/step_sec", elapsed);
  }
  points.emplace_back("time/pull_sec", absl::ToDoubleSeconds(metrics.pull));
  points.emplace_back("time/forward_sec", absl::ToDoubleSeconds(metrics.forward));
  points.emplace_back("time/backward_sec", absl::ToDoubleSeconds(metrics.backward));
  points.emplace_back("time/push_sec", absl::ToDoubleSeconds(metrics.push));
  constexpr double kMiB = 1 << 20;
  points.emplace_back("memory/worst_worker_mib",
                      static_cast<double>(metrics.max_worker_allocated_bytes) / kMiB);
  if (metrics.predicted_worker_allocated_bytes > 0) {
    points.emplace_back("memory/predicted_worker_mib",
                        static_cast<double>(metrics.predicted_worker_allocated_bytes) / kMiB);
  }
  points.emplace_back("memory/worst_shard_mib",
                      static_cast<double>(metrics.max_shard_allocated_bytes) / kMiB);
  return points;
}

std::string EventRecord(const std::string& message) {
  std::string record;
  AppendLittleEndian(static_cast<uint64_t>(message.size()), &record);
  AppendLittleEndian(Masked(record), &record);
  record += message;
  AppendLittleEndian(Masked(message), &record);
  return record;
}

absl::StatusOr<std::unique_ptr<EventFile>> EventFile::Create(const std::string& folder, Step first,
                                                             absl::Time now) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("make ", folder));
  // The seconds are TensorBoard's order of the files; the process id tells apart two of one second.
  const std::string path = absl::StrFormat("%s/events.out.tfevents.%010d.coordinator.%d", folder,
                                           absl::ToUnixSeconds(now), getpid());
  std::FILE* const file = std::fopen(path.c_str(), "ae");
  if (file == nullptr) return absl::ErrnoToStatus(errno, absl::StrCat("open ", path));
  std::unique_ptr<EventFile> events(new EventFile(path, file));
  proto::CurveEvent version = EventAt(0, now);
  version.set_file_version("brain.Event:2");
  SDP_RETURN_IF_ERROR(events->Write(version.SerializeAsString()));
  SDP_RETURN_IF_ERROR(events->BeginAt(first, now));
  return events;
}

EventFile::~EventFile() { std::fclose(file_); }  // Every record was flushed.

absl::Status EventFile::BeginAt(Step step, absl::Time now) {
  proto::CurveEvent start = EventAt(step, now);
  start.mutable_session_log()->set_status(1);
  newest_ = step - 1;
  return Write(start.SerializeAsString());
}

absl::Status EventFile::Append(Step step, const CurvePoints& points, absl::Time now) {
  if (step <= newest_) SDP_RETURN_IF_ERROR(BeginAt(step, now));
  newest_ = step;
  proto::CurveEvent event = EventAt(step, now);
  for (const auto& [tag, value] : points) {
    proto::CurveEvent::Value* const point = event.mutable_summary()->add_value();
    point->set_tag(tag);
    point->set_simple_value(static_cast<float>(value));
  }
  return Write(event.SerializeAsString());
}

absl::Status EventFile::Write(const std::string& message) {
  if (!status_.ok()) return status_;
  const std::string record = EventRecord(message);
  if (std::fwrite(record.data(), 1, record.size(), file_) != record.size() ||
      std::fflush(file_) != 0) {
    status_ = absl::ErrnoToStatus(errno, absl::StrCat("write ", path_));
  }
  return status_;
}

}  // namespace sdp

#pragma once

#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/ids.h"
#include "server/coordinator/logic/step_metrics.h"

namespace sdp {

// A curve's name, as TensorBoard groups them by what is before the "/", and its value at a step.
using CurvePoints = std::vector<std::pair<std::string, double>>;
// loss/train, loss/full, accuracy/full, throughput/*, memory/*, time/*: what the step has of them.
CurvePoints CurvesOf(const StepMetrics& metrics);

// A file of TensorBoard's: records of CurveEvents (proto/event.proto). A record is
//   8 bytes little-endian: length n;  4: masked CRC-32C of these;  n: the message;  4: its masked
//   CRC.
// Masked: ((crc >> 15) | (crc << 17)) + 0xa282ead8.
// Threads: confined to one.   Errors: the file system's, with the file; one is final.
class EventFile {
 public:
  // Makes a new file in `folder`, and the folder. What other files there have from `first` on is
  // void.
  static absl::StatusOr<std::unique_ptr<EventFile>> Create(const std::string& folder, Step first,
                                                           absl::Time now);
  ~EventFile();
  EventFile(const EventFile&) = delete;
  EventFile& operator=(const EventFile&) = delete;

  // The record is with the operating system on return. A step that is not behind the one before, as
  // after a lost shard, voids those from it on.
  absl::Status Append(Step step, const CurvePoints& points, absl::Time now);
  const std::string& path() const { return path_; }

 private:
  EventFile(std::string path, std::FILE* file) : path_(std::move(path)), file_(file) {}
  absl::Status Write(const std::string& message);
  absl::Status BeginAt(Step step, absl::Time now);

  const std::string path_;
  std::FILE* const file_;
  Step newest_ = -1;
  absl::Status status_;
};

// "TFRecord", framed as above. For tests too.
std::string EventRecord(const std::string& message);

}  // namespace sdp

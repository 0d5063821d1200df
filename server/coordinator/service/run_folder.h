#pragma once

#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/ids.h"
#include "server/coordinator/logic/run_event.h"
#include "server/coordinator/logic/step_metrics.h"
#include "server/coordinator/service/event_file.h"

namespace sdp {

// One line of metrics.jsonl, without the newline. Keys are the fields of StepMetrics: durations in
// seconds with `_sec`, hashes as 16 hexadecimal digits. What a closing step does not have (loss,
// times, bytes) is absent, as are a full_loss that was not asked for and a full_accuracy where
// targets are not classes of images. `largest_worker` says what the memory of the worker with the
// largest peak is for, in bytes, now and at that peak. `lost_workers`, absent if empty, are the
// incarnations of `lost`. A step that is diagnosed has `blocks`, an
// object per unit (server/coordinator/logic/diagnostics.h).
std::string MetricsJson(const StepMetrics& metrics);

// One line of events.jsonl, without the newline: `time` (UTC, ISO 8601), `event` (its kind),
// `generation`, `step`, then what of the event's fields its kind has, by their names, and `text`,
// the whole for people.
std::string EventJson(const RunEvent& event, absl::Time at);

// The folder of one run:
//   config.toml     every value resolved (written by main)
//   plan.json       who holds what
//   metrics.jsonl   an object per step
//   events.jsonl    an object per event of membership and of the run
//   tensorboard/    curves, for TensorBoard: a file per process of the coordinator
//   state.db        the coordinator's records
//   logs/           of the processes
//   checkpoints/    step-T, unless the config says another folder (common/checkpoint/manifest.h)
//   lock            held, with the process id in it, as long as the run lasts
//   coordinator.address  where it listens, for `sdp status`
// Threads: confined to one.
class RunFolder {
 public:
  // Makes the folder, and those above it, and takes the lock. A folder with nothing but logs/,
  // .starting-* and *.address (a launcher's preparations) counts as empty. Errors name the folder
  // and what to do:
  //   AlreadyExists - it has a run, or anything else. FailedPrecondition - a process is using it.
  //   Others - the file system's.
  static absl::StatusOr<std::unique_ptr<RunFolder>> Create(const std::string& path);
  // Takes the lock of a folder that has a run, to go on with it. The incomplete last lines of
  // metrics.jsonl and events.jsonl, which a crash may leave, are cut off. NotFound - there is no
  // run in it. FailedPrecondition - a process is using it.
  static absl::StatusOr<std::unique_ptr<RunFolder>> Open(const std::string& path);
  ~RunFolder();
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string config_path() const { return path_ + "/config.toml"; }
  std::string store_path() const { return path_ + "/state.db"; }
  std::string logs_path() const { return path_ + "/logs"; }
  std::string checkpoints_path() const { return path_ + "/checkpoints"; }

  // The newest line of metrics.jsonl. DataLoss - it is no line of ours.
  struct Line {
    Generation generation;
    Step step = 0;
    bool closing = false;  // the last one of a run that ended in order
  };
  absl::StatusOr<std::optional<Line>> NewestLine() const;
  // The newest losses in metrics.jsonl, the oldest first; what is no line of ours is passed over.
  std::vector<double> NewestLosses(size_t most) const;

  absl::Status WritePlan(const std::string& json);
  absl::Status WriteAddress(const std::string& address);
  // The line is with the operating system on return. An error is final: later calls return it too.
  absl::Status AppendMetrics(const StepMetrics& metrics);
  absl::Status AppendEvent(const std::string& json);                      // as AppendMetrics
  absl::Status AppendCurves(const StepMetrics& metrics, absl::Time now);  // likewise

  // Takes away what was written, and the folder if nothing else is in it: the run could not begin,
  // and may be tried again.
  void Discard();

 private:
  // Of a folder that is locked and, if `status` says so, prepared; the lock is let go of otherwise.
  static absl::StatusOr<std::unique_ptr<RunFolder>> Begin(const std::string& path, int lock,
                                                          absl::Status status);
  struct Lines {  // a file that grows by lines
    std::string path;
    std::FILE* file = nullptr;
    absl::Status status;
  };
  static absl::Status Append(const std::string& json, Lines* lines);

  explicit RunFolder(std::string path);

  const std::string path_;
  int lock_ = -1;  // file descriptor
  Lines metrics_, events_;
  absl::StatusOr<std::unique_ptr<EventFile>> curves_;  // made with the first step: null before
};

// Writes `text` to `path` whole or not at all: beside it first, then renamed into its place. Errors
// name the file.
absl::Status WriteFileAtomically(const std::string& path, const std::string& text);

}  // namespace sdp

#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/ids.h"
#include "common/run/run_setup.h"
#include "proto/config.pb.h"
#include "server/coordinator/logic/coordinator.h"
#include "server/coordinator/logic/records.h"

namespace sdp {

// What a generation begins with, and c_j, which a run resolves once.
struct Beginning {
  GenerationStart start;
  std::vector<double> coverage;    // [units]
  std::vector<std::string> notes;  // for people: what was found, changed, set aside
};

// What a run's first step starts from; at most one is given, as a path. None: drawn values.
struct StartFrom {
  std::string init_file = "";   // --init: raw values
  std::string pretrained = "";  // --from-pretrained: the folder of a dense model
};

// A run's first start. Errors: those of the file or the folder.
absl::StatusOr<Beginning> BeginRun(const RunSetup& setup, const StartFrom& from);

struct ResumeRequest {
  std::optional<Step> step;     // none: the newest checkpoint that is whole; 0: the initial values
  bool force = false;           // take another configuration and other data than the run had
  std::string checkpoints;      // the folder
  RunConfig before;             // the run's configuration when it was last started
  std::vector<Record> records;  // of the coordinator's store
};

// Goes on with a run: chooses the checkpoint, with every byte of it checked, and the numbers of the
// next generation. Damaged checkpoints are noted and the one before is taken; with none the run
// begins again from its initial values. Changes nothing on the disk.
//   FailedPrecondition - a key that is in the config hash has changed, or the checkpoint is of
//   another model, and no force; the run never began; what it started from is
//   something else now.
//   NotFound, DataLoss - the checkpoint that was asked for by its step is not there, or damaged.
absl::StatusOr<Beginning> ResumeRun(const RunSetup& setup, const ResumeRequest& request);

// With what a coordinator process goes on that is started again while the run lives: the newest
// generation, as it began. None: no generation has begun. FailedPrecondition - a key that is in the
// config hash has changed, or the number of shards, or which steps are diagnosed.
absl::StatusOr<std::optional<Beginning>> TakeUpRun(const RunSetup& setup,
                                                   const ResumeRequest& request);

// The same while the run goes on: `next` has the numbers; the newest checkpoint that is whole is
// chosen, or none, and the way is cleared. `checkpoints`: the folder.
absl::StatusOr<Beginning> GoBack(const RunSetup& setup, const std::string& checkpoints,
                                 std::vector<double> coverage, GenerationStart next);

// The generation will write checkpoints later than its start: sets aside the complete ones that
// have these numbers, and removes all that were never completed. Returns notes for people.
absl::StatusOr<std::vector<std::string>> ClearTheWay(const std::string& checkpoints,
                                                     const GenerationStart& start);

// Room for the checkpoints that the run will keep, and the one being written meanwhile.
// ResourceExhausted - there is not, by the numbers. `free_bytes` < 0: not known, so OK.
int64_t CheckpointBytes(const RunSetup& setup);  // of one
absl::Status CheckRoom(const RunSetup& setup, Step start, const std::string& folder,
                       int64_t free_bytes);
// Of the file system that has, or will have, `folder`; -1: not known.
int64_t FreeBytes(const std::string& folder);

}  // namespace sdp

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/base/ids.h"
#include "common/checkpoint/manifest.h"
#include "common/data/safetensors_writer.h"

namespace sdp {

// Writes one shard's file of a checkpoint, fragment by fragment.
// Threads: confined to one. Errors name the file; ResourceExhausted - the disk is full. What was
// not finished is removed.
class CheckpointFileWriter {
 public:
  struct Fragment {
    FragmentId id;
    int64_t size = 0;  // elements
  };

  // Makes the folder `path` (".../step-500") if it is not there.
  static absl::StatusOr<std::unique_ptr<CheckpointFileWriter>> Create(
      const std::string& path, const std::string& name, std::vector<Fragment> fragments,
      int moments);

  // The next fragment: its value [n], its moments, each [n], and the updates that were made.
  absl::Status Add(absl::Span<const float> value,
                   const std::vector<absl::Span<const float>>& moments, int64_t updates);
  // On the disk; what belongs into the manifest.
  absl::StatusOr<CheckpointManifest::File> Finish();

 private:
  CheckpointFileWriter(std::string folder, std::vector<Fragment> fragments, int moments,
                       std::unique_ptr<SafetensorsWriter> file);

  const std::string folder_;
  const std::vector<Fragment> fragments_;
  const size_t moments_;
  const std::unique_ptr<SafetensorsWriter> file_;
  CheckpointManifest::File result_;
};

// Writes the manifest beside its files, whole or not at all, and waits for the disk: the checkpoint
// is complete.
absl::Status WriteManifest(const std::string& path, const CheckpointManifest& manifest);

// Takes a checkpoint away, the manifest first: whatever happens meanwhile, it is complete or none.
absl::Status RemoveCheckpoint(const std::string& path);

// Removes all complete checkpoints of `folder` but the newest `keep` (at least 1).
absl::Status RemoveOldCheckpoints(const std::string& folder, int keep);

// Removes checkpoints of `folder` that have no manifest: nobody may be writing there. Returns how
// many.
absl::StatusOr<int> RemoveIncompleteCheckpoints(const std::string& folder);

// Moves each checkpoint of `folder` later than `step`, complete or not, out of the way and waits
// for the disk: a run that goes on from `step` will write others of these numbers. Returns the new
// names.
absl::StatusOr<std::vector<std::string>> SetAsideCheckpoints(const std::string& folder, Step step,
                                                             Generation generation);

}  // namespace sdp

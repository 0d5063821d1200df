#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/base/ids.h"
#include "common/checkpoint/manifest.h"
#include "common/data/safetensors.h"
#include "common/model/layout.h"

namespace sdp {

// The steps of the checkpoints in `folder` that have a manifest, ascending; nothing else of them is
// looked at. A folder that is not there has none. Unavailable, ... - the file system's.
absl::StatusOr<std::vector<Step>> ListCheckpoints(const std::string& folder);

// Reads a complete checkpoint: any process reads just the fragments it wants, whatever the number
// of shards that wrote it. Every read is checked against the manifest. Threads: immutable after
// Open; reads may run on many at once. Errors name file and fragment. DataLoss - truncated, torn or
// flipped bits.
class CheckpointReader {
 public:
  // `path` is the checkpoint's own folder (".../step-500"). Reads the manifest and the files'
  // headers. NotFound - no manifest: it was never completed. InvalidArgument, DataLoss - damaged.
  static absl::StatusOr<std::unique_ptr<CheckpointReader>> Open(const std::string& path);

  const CheckpointManifest& manifest() const { return manifest_; }
  const std::string& path() const { return path_; }

  // What Open does not: every byte against its checksum. Reads the whole checkpoint once.
  absl::Status Verify() const;

  // `out` has the fragment's size. NotFound - no such fragment or moment.
  absl::Status ReadValue(FragmentId fragment, absl::Span<float> out) const;
  absl::Status ReadMoment(FragmentId fragment, int moment, absl::Span<float> out) const;
  // 0 and 0 for a fragment that is not there.
  int moments(FragmentId fragment) const;
  int64_t updates(FragmentId fragment) const;

 private:
  struct Place {
    size_t file = 0;
    const CheckpointManifest::Entry* entry = nullptr;  // in manifest_
  };

  explicit CheckpointReader(std::string path) : path_(std::move(path)) {}
  absl::Status OpenFile(const CheckpointManifest::File& file);
  absl::StatusOr<Place> Find(FragmentId fragment) const;
  absl::Status Read(const Place& place, const std::string& tensor, uint64_t checksum,
                    absl::Span<float> out) const;

  const std::string path_;
  CheckpointManifest manifest_;
  std::vector<std::unique_ptr<SafetensorsReader>> files_;  // as in manifest_
  absl::flat_hash_map<FragmentId, Place> places_;
};

}  // namespace sdp

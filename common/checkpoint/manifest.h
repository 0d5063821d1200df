#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/ids.h"
#include "common/model/layout.h"
#include "common/protocol/messages.h"
#include "common/protocol/sample_cursor.h"

namespace sdp {

// Raise it with every change that an older reader would misunderstand; others are refused.
// Format 1 had no "returned".
inline constexpr int kCheckpointFormat = 2;

// What checkpoint T is: version T of every fragment, with the optimizer state that made it, and
// what a run needs to go on from there. On the disk:
//
//   FOLDER/step-T/shard-0-of-2.gen-1.safetensors   tensors "F.value" [n], "F.moment.0" [n],
//                                                  "F.moment.1" [n] f32 of each fragment F of that
//                                                  shard, in fragment order
//   FOLDER/step-T/manifest.json                    renamed into place when all files are on the
//                                                  disk: with it the checkpoint is complete
//
// The manifest is one JSON object with the fields below by the same names; hashes and checksums
// (XXH3, 64 bits, of a tensor's bytes) are strings of 16 hexadecimal digits.
struct CheckpointManifest {
  using Entry = CheckpointFile::Entry;
  using File = CheckpointFile;

  Step step = 0;
  Generation generation;  // that wrote it
  SampleCursor cursor;    // of step's samples: "cursor" is its next(), "returned" pairs of numbers
  std::string config;     // the run's resolved configuration, TOML
  std::string config_hash;
  std::vector<double> coverage;  // [units] c_j
  DataSummary data;              // of the workers' files
  uint64_t plan_hash = 0;        // of the step's plan
  std::vector<File> files;       // by shard number

  friend bool operator==(const CheckpointManifest&, const CheckpointManifest&) = default;
};

std::string ManifestJson(const CheckpointManifest& manifest);

// Whatever the text: the manifest, or InvalidArgument - not one, or of another format (says what is
// wrong where).
absl::StatusOr<CheckpointManifest> ParseManifest(absl::string_view text);

// Every fragment of the layout is there once, in its size. DataLoss - says which is not.
absl::Status CheckComplete(const CheckpointManifest& manifest, const Layout& layout);

// "step-500", and back; -1 for another name.
std::string CheckpointName(Step step);
Step StepOfCheckpoint(absl::string_view name);
// Of a shard's file in it: "shard-0-of-2.gen-1.safetensors".
std::string CheckpointFileName(ShardId shard, int shards, Generation generation);

inline constexpr char kManifestName[] = "manifest.json";
// A fragment's tensors in a shard's file: "17.value", "17.moment.0".
std::string ValueTensor(FragmentId fragment);
std::string MomentTensor(FragmentId fragment, size_t moment);

}  // namespace sdp

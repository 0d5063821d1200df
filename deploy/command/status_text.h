#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "deploy/command/run_files.h"
#include "proto/coordinator.pb.h"
#include "proto/shard.pb.h"

// A run's status as text for people, and as JSON for programs. Pure functions. JSON keys are the
// fields of the messages; 64-bit numbers are numbers, hashes 16 hexadecimal digits, what is not
// known is absent.
namespace sdp {

struct ShardAnswer {
  std::string name;
  absl::StatusOr<proto::ShardStatus> status;
};

std::string RunningText(const proto::RunStatus& run, const std::vector<ShardAnswer>& shards);
std::string RunningJson(const proto::RunStatus& run, const std::vector<ShardAnswer>& shards);

// Of a run without processes.
std::string EndedText(const std::string& run_dir, RunEnd end, const RunMetrics& metrics);
std::string EndedJson(const std::string& run_dir, RunEnd end, const RunMetrics& metrics);

}  // namespace sdp

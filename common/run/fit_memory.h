#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/config.pb.h"

// sdp.coverage = "auto": what every worker of a run can train with worker.memory. `sdp train` and
// `sdp plan` ask here before anything else and put the answer in the configuration; the processes
// of a run see only that. Pure functions.
namespace sdp {

// One way to train, on the worker that needs most of each.
struct MemoryOption {
  double coverage = 1;
  int64_t micro_batch = 1;
  bool recompute = false;

  int64_t memory_bytes = 0;  // predicted peak
  std::string when;          // the moment of it
  double flops_share = 1;    // of a step, over the full model's
  int64_t wire_bytes = 0;    // pulled and pushed per step
  std::string refused;       // why it is not taken; empty: it is
};

// In the order in which they were weighed: smaller micro-batches, then recomputation from the
// largest micro-batch on, then the same at the next lower coverage, an eighth of the workers less
// each. The first that fits is taken, and is the last here. Starts from train.micro_batch and
// train.recompute as they are given.
// InvalidArgument - sdp.coverage is not "auto", what MakeRunSetup says, or nothing fits; then the
// message has all options.
absl::StatusOr<std::vector<MemoryOption>> FitMemory(const RunConfig& config);

// As a table for people.
std::string MemoryOptionsText(const std::vector<MemoryOption>& options);

// As overrides (`--set`) of the configuration.
std::vector<std::string> SettingsOf(const MemoryOption& option);

}  // namespace sdp

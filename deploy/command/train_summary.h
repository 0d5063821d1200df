#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "proto/config.pb.h"

// What `sdp train` says after a finished run.
namespace sdp {

// "validation: unigram X  bigram Y  model Z nats/byte": what models that only count would lose on
// the very bytes that the full model was evaluated on, then the model's newest loss in
// RUN/metrics.jsonl. "" - there is nothing to compare: other data than text, no validation.
// NotFound, ... - a file cannot be read, or metrics.jsonl has no full_loss.
absl::StatusOr<std::string> ValidationLine(const RunConfig& config);

// What continues a run that was stopped or broke off.
std::string ResumeCommand(const RunConfig& config, const std::string& command_name);

// Four commands that work with this run as it is now, one per line, for people to copy: text from
// the model (for token ids its loss, if there is validation data), the model as a folder, and what
// another choice of subnetworks would be and do.
std::string NextCommands(const RunConfig& config, const std::string& command_name);

}  // namespace sdp

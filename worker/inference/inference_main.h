#pragma once

#include "absl/strings/string_view.h"

// The worker program as what `sdp eval` and `sdp generate` run, and `sdp export` of a model with
// BatchNorm: no cluster, no network.
namespace sdp {

// Whether the program's first argument names one of these commands.
bool IsInferenceCommand(absl::string_view argument);

// Runs it, and ends the process with common/process/exit_status.h's status.
[[noreturn]] void InferenceMain(int argc, char** argv);

}  // namespace sdp

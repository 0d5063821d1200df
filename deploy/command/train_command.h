#pragma once

#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "deploy/cluster/local_cluster.h"

namespace sdp {

// `sdp train FILE [--set key=value]... [--init FILE | --from-pretrained DIR | --resume
// [STEP|latest] [--force]] [--print-config] [--unix-sockets] [--metrics] [--page ADDR|none]`:
// trains with a cluster of processes on this machine, until the run is over.
struct TrainCommand {
  std::string config_path;
  std::vector<std::string> sets;  // "section.key=value"
  std::string init_path;          // A safetensors file of initial values; "": draw them.
  std::string pretrained;         // The folder of a dense model to start from, instead.
  std::string resume;             // "latest" or the step of a checkpoint; "": a new run.
  bool force = false;             // With resume: whatever has changed in the config.
  enum class Action { kTrain, kPrintConfig };
  Action action = Action::kTrain;
  enum class Transport { kTcp, kUnixSockets };
  Transport transport = Transport::kTcp;
  LocalClusterOptions::Metrics metrics = LocalClusterOptions::Metrics::kNone;
  std::string page = "127.0.0.1:0";  // Where the status page is; "none": nowhere.

  std::string program_dir;   // Of the role programs.
  std::string command_name;  // How the user calls `sdp`, for the commands to try next.
};

// A configuration without [model] takes it from `pretrained`; one on token ids without
// data.tokenizer the tokenizer.
//
// Everything that can be known to be wrong before a process starts - the config, the plan, files of
// data - is refused before one does. The coordinator's step lines go to standard output directly;
// `out` gets what comes after them, `messages` what happens meanwhile.
//   OK              the run finished.
//   InvalidArgument, NotFound  the config, its data or the plan.
//   Cancelled       the run was stopped.
//   Internal, ...   it failed; the message is what the user reads.
// Threads: only from the main thread, before others exist (deploy/cluster: children, signals).
absl::Status RunTrainCommand(const TrainCommand& given, std::ostream& out, std::ostream& messages);

}  // namespace sdp

#include "deploy/command/train_command.h"

#include <stdlib.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/status.h"
#include "common/checkpoint/checkpoint_reader.h"
#include "common/config/config.h"
#include "common/config/value.h"
#include "common/export/exported_model.h"
#include "common/export/pretrained.h"
#include "common/plan/plan.h"
#include "common/rpc/identity.h"
#include "common/run/run_setup.h"
#include "deploy/cluster/local_cluster.h"
#include "deploy/cluster/stop_signals.h"
#include "deploy/command/fitting_config.h"
#include "deploy/command/run_calls.h"
#include "deploy/command/run_files.h"
#include "deploy/command/train_checks.h"
#include "deploy/command/train_summary.h"

namespace sdp {
namespace {

constexpr absl::Duration kStopCallTimeout = absl::Seconds(5);

// A folder of a short name for the run's unix sockets, removed at the end.
class SocketFolder {
 public:
  static absl::StatusOr<std::unique_ptr<SocketFolder>> Make() {
    std::string path =
        "/tmp/sdp-XXXXXX";  // Not $TMPDIR, which may be longer than a socket's path may.
    if (mkdtemp(path.data()) == nullptr) return absl::ErrnoToStatus(errno, "make a folder in /tmp");
    return std::unique_ptr<SocketFolder>(new SocketFolder(std::move(path)));
  }
  ~SocketFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  SocketFolder(const SocketFolder&) = delete;
  SocketFolder& operator=(const SocketFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  explicit SocketFolder(std::string path) : path_(std::move(path)) {}
  const std::string path_;
};

// Makes the plan that the coordinator will make, for the errors and warnings.
absl::Status CheckPlan(const RunConfig& config, std::ostream& messages) {
  SDP_ASSIGN_OR_RETURN(const RunSetup setup, MakeRunSetup(config));
  SDP_ASSIGN_OR_RETURN(std::vector<Rank> ranks, RanksFrom(setup.config));
  SDP_ASSIGN_OR_RETURN(PlanInput input, PlanInputFrom(setup, std::move(ranks), /*rotation=*/0));
  const MemoryModel memory = MemoryModelFrom(setup);
  input.memory = &memory;
  SDP_ASSIGN_OR_RETURN(const Plan plan, MakePlan(input));
  for (const std::string& warning : plan.warnings) {
    messages << "sdp: warning: " << warning << std::endl;
  }
  return absl::OkStatus();
}

absl::Status RunCluster(const TrainCommand& command, const RunConfig& config,
                        std::ostream& messages) {
  StopSignals signals;  // First: threads begin below, which must not take them.
  // The processes say what they refuse, in their logs.
  SDP_ASSIGN_OR_RETURN(const SecurityOptions security,
                       LoadSecurity(config.security(), {}, /*log=*/nullptr));
  LocalClusterOptions options;
  options.program_dir = command.program_dir;
  options.config_path = command.config_path;
  options.sets = command.sets;
  const int workers = static_cast<int>(config.cluster().workers());
  if (config.worker().threads() == 0) {
    options.sets.push_back(absl::StrCat("worker.threads=", ThreadsPerWorker(workers)));
  }
  if (!command.init_path.empty()) options.coordinator_args = {"--init", command.init_path};
  if (!command.pretrained.empty()) {
    options.coordinator_args = {"--from-pretrained", command.pretrained};
  }
  if (!command.resume.empty()) options.coordinator_args = {"--resume", command.resume};
  if (command.force) options.coordinator_args.push_back("--force");
  options.run_dir = config.run().dir();
  options.shards = static_cast<int>(config.cluster().shards());
  options.workers = workers;
  options.metrics = command.metrics;
  if (command.page != "none") options.page = command.page;
  options.request_stop = [security](const std::string& address, const std::string& reason) {
    return RequestStop(address, reason, security, absl::Now() + kStopCallTimeout);
  };
  options.goes_on_without = [security](const std::string& address, const std::string& member,
                                       bool killed) -> absl::StatusOr<bool> {
    const absl::Time deadline = absl::Now() + kStopCallTimeout;
    SDP_ASSIGN_OR_RETURN(const proto::RunStatus status,
                         FetchRunStatus(address, security, deadline));
    if (status.phase() == "over" || status.phase() == "ending") return false;
    // A shard that leaves was let go by the coordinator, which goes back by itself.
    if (!killed && absl::StartsWith(member, "shard-")) return true;
    // No worker leaves before anything is trained.
    if (!killed && status.phase() != "training" && status.phase() != "paused") return false;
    const absl::Status told = RequestDrain(address, member, Drain::kIsGone, security, deadline);
    if (absl::IsNotFound(told)) return true;
    SDP_RETURN_IF_ERROR(told);
    return true;
  };
  options.messages = &messages;
  std::unique_ptr<SocketFolder> sockets;
  if (command.transport == TrainCommand::Transport::kUnixSockets) {
    SDP_ASSIGN_OR_RETURN(sockets, SocketFolder::Make());
    options.socket_dir = sockets->path();
  }
  const absl::Status outcome = RunLocalCluster(options, signals);
  if (outcome.ok() || absl::IsCancelled(outcome)) return outcome;
  return absl::InternalError(
      outcome.message());  // Whatever its code: no mistake in what the user wrote.
}

// With what the user types to go on, if there is something to go on with.
absl::Status WithResumeCommand(const absl::Status& outcome, const TrainCommand& command,
                               const RunConfig& config) {
  const absl::StatusOr<RunMetrics> metrics = ReadRunMetrics(config.run().dir());
  if (!metrics.ok() || metrics->last_step < 0) return outcome;
  return absl::Status(outcome.code(), absl::StrCat(outcome.message(), "\ngo on with: ",
                                                   ResumeCommand(config, command.command_name)));
}

// What the configuration leaves out and the folder says, as overrides, which all processes get.
absl::StatusOr<std::vector<std::string>> SetsFromPretrained(const TrainCommand& command) {
  SDP_ASSIGN_OR_RETURN(const std::set<std::string> given,
                       GivenKeys(command.config_path, command.sets));
  std::vector<std::string> sets = command.sets;
  const auto is_model = [](const std::string& key) { return absl::StartsWith(key, "model."); };
  if (std::none_of(given.begin(), given.end(), is_model)) {
    SDP_ASSIGN_OR_RETURN(const std::vector<std::string> model, ModelSettings(command.pretrained));
    sets.insert(sets.end(), model.begin(), model.end());
  }
  SDP_ASSIGN_OR_RETURN(const LoadedConfig loaded, LoadConfig(command.config_path, sets));
  if (loaded.config.data().kind() == "tokens" && !given.contains("data.tokenizer") &&
      !TokenizerFiles(command.pretrained).empty()) {
    const std::string folder = std::filesystem::absolute(command.pretrained).string();
    sets.push_back(absl::StrCat("data.tokenizer=", config::Quoted(folder)));
  }
  SDP_ASSIGN_OR_RETURN(const RunSetup setup, MakeRunSetup(loaded.config));
  SDP_RETURN_IF_ERROR(CheckPretrained(command.pretrained, setup));
  return sets;
}

// All steps are done and their result is kept: a last checkpoint that failed is to be made up for.
bool IsFinished(const RunConfig& config) {
  const absl::StatusOr<RunMetrics> metrics = ReadRunMetrics(config.run().dir());
  const absl::StatusOr<std::vector<Step>> checkpoints = ListCheckpoints(CheckpointsPath(config));
  return metrics.ok() && metrics->closed && metrics->last_step >= config.train().steps() &&
         checkpoints.ok() && !checkpoints->empty() && checkpoints->back() >= config.train().steps();
}

}  // namespace

absl::Status RunTrainCommand(const TrainCommand& given, std::ostream& out, std::ostream& messages) {
  TrainCommand command = given;
  if (!command.pretrained.empty()) {
    absl::StatusOr<std::vector<std::string>> sets = SetsFromPretrained(given);
    if (!sets.ok()) return Context(sets.status(), "--from-pretrained");
    command.sets = *std::move(sets);
  }
  SDP_ASSIGN_OR_RETURN(FittingConfig config, LoadFittingConfig(command.config_path, command.sets));
  const LoadedConfig& loaded = config.loaded;
  command.sets = std::move(config.sets);
  messages << config.weighed;
  if (command.action == TrainCommand::Action::kPrintConfig) {
    out << PrintConfig(loaded);
    return absl::OkStatus();
  }
  if (command.page != "none" && !IsLocalAddress(command.page)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--page ", command.page,
                     ": allowed are none and an address of this machine's loopback, such as "
                     "127.0.0.1:8080; from another machine it is reached through ssh -L"));
  }
  SDP_RETURN_IF_ERROR(CheckPlan(loaded.config, messages));
  SDP_RETURN_IF_ERROR(CheckDataFiles(loaded));
  if (command.resume == "latest" && IsFinished(loaded.config)) {
    out << "the run in " << loaded.config.run().dir() << " is finished, at step "
        << loaded.config.train().steps() << "; a larger train.steps would go on" << std::endl;
    return absl::OkStatus();
  }
  if (!command.init_path.empty()) SDP_RETURN_IF_ERROR(CheckReadable(command.init_path, "--init"));

  const absl::Status outcome = RunCluster(command, loaded.config, messages);
  if (!outcome.ok()) return WithResumeCommand(outcome, command, loaded.config);

  const absl::StatusOr<std::string> validation = ValidationLine(loaded.config);
  if (!validation.ok()) {  // The run itself is fine.
    messages << "sdp: no comparison with counting models: " << validation.status().message()
             << std::endl;
  } else if (!validation->empty()) {
    out << *validation << "\n";
  }
  out << "try next:\n" << NextCommands(loaded.config, command.command_name) << std::flush;
  return absl::OkStatus();
}

}  // namespace sdp

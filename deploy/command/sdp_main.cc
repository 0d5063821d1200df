// The `sdp` command: reads the command line, calls the subcommand, turns its status into a message
// and an exit status (common/process/exit_status.h).
#include <filesystem>
#include <iostream>
#include <map>
#include <string>
#include <system_error>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/config/config.h"
#include "common/export/export_command.h"
#include "common/process/exit_status.h"
#include "common/process/security_flags.h"
#include "common/rpc/identity.h"
#include "deploy/command/audit_command.h"
#include "deploy/command/certs_command.h"
#include "deploy/command/checkpoint_command.h"
#include "deploy/command/drain_command.h"
#include "deploy/command/kube_command.h"
#include "deploy/command/plan_command.h"
#include "deploy/command/probe_command.h"
#include "deploy/command/status_command.h"
#include "deploy/command/target_security.h"
#include "deploy/command/top_command.h"
#include "deploy/command/train_command.h"
#include "deploy/command/worker_command.h"

namespace {

constexpr char kVersion[] = "sdp 0.1.0";

// One subcommand: what the parser fills in and what is then called.
struct Commands {
  sdp::TrainCommand train;
  sdp::PlanCommand plan;
  sdp::KubeRenderCommand kube_render;
  sdp::StatusCommand status;
  sdp::TopCommand top;
  sdp::ProbeCommand probe;
  sdp::CheckpointCommand checkpoint;
  sdp::DrainCommand drain;
  sdp::AuditCommand audit;
  sdp::ExportCommand exporting;
  sdp::CertsCommand certs;
  sdp::RunConfig::Security files;  // Given to a command that speaks to a run.
  bool print_config = false, unix_sockets = false, metrics = false, plan_json = false,
       status_json = false, status_units = false, audit_json = false, ready = false;
};

void AddConfig(CLI::App* app, std::string* path, std::vector<std::string>* sets) {
  app->add_option("FILE", *path, "The run's config (TOML)")->required();
  // One value per --set, so that a FILE behind it is not taken for another one.
  app->add_option("--set", *sets, "Overrides one key of the config; may be repeated")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->allow_extra_args(false);
}

CLI::App* AddTrain(CLI::App& app, Commands& commands) {
  CLI::App* train = app.add_subcommand(
      "train",
      "Train with a cluster of processes on this machine: a coordinator, shards and workers");
  train->footer([] {
    return absl::StrCat(
        "Example: sdp train run.toml --set train.steps=200 --set run.dir=runs/short\n"
        "Ctrl-C stops at the next step, with a checkpoint; a second one at once.\n\nKeys of "
        "FILE:\n",
        sdp::DescribeKeys());
  });
  AddConfig(train, &commands.train.config_path, &commands.train.sets);
  sdp::AddSecurityFlags(*train, [&commands](const std::string& key, const std::string& file) {
    std::vector<std::string>& sets = commands.train.sets;
    sets.insert(sets.begin(), absl::StrCat("security.", key, "=", file));
  });
  train
      ->add_option_function<std::string>(
          "--memory",
          [&commands](const std::string& given) {
            commands.train.sets.push_back(absl::StrCat("worker.memory=", given));
          },
          "Instead of worker.memory, such as 2GiB: what sdp.coverage = \"auto\" fits")
      ->type_name("M");
  train
      ->add_option("--init", commands.train.init_path,
                   "Start from the weights of a safetensors file (Hugging Face names)")
      ->type_name("FILE");
  train
      ->add_option("--from-pretrained", commands.train.pretrained,
                   "Start from the dense LLaMA in a folder of Hugging Face's (config.json, "
                   "safetensors); [model] may be left out of FILE")
      ->type_name("DIR")
      ->excludes("--init");
  train
      ->add_option_function<std::vector<std::string>>(
          "--resume",
          [&commands](const std::vector<std::string>& given) {
            const bool none = given.empty() || given.front().empty();
            commands.train.resume = none ? "latest" : given.front();
          },
          "Go on with the run in run.dir from its newest checkpoint, or from that of a step")
      ->type_name("[STEP|latest]")
      ->expected(0, 1);
  train->add_flag("--force", commands.train.force,
                  "With --resume: also with another configuration or other data than before");
  train->add_flag("--print-config", commands.print_config,
                  "Print every value and where it came from, and train nothing");
  train->add_flag("--unix-sockets", commands.unix_sockets,
                  "Let the processes talk over unix sockets instead of TCP on loopback");
  train->add_flag("--metrics", commands.metrics,
                  "Every process serves /metrics for Prometheus at a port on loopback; `sdp status "
                  "--json` tells which");
  train
      ->add_option("--page", commands.train.page,
                   "Where on this machine the status page is, such as 127.0.0.1:8080; a free port "
                   "if not given; none: nowhere")
      ->type_name("ADDR|none");
  return train;
}

CLI::App* AddPlan(CLI::App& app, Commands& commands) {
  CLI::App* plan = app.add_subcommand(
      "plan", "Show who would train what, and what each worker computes and sends; starts nothing");
  plan->footer("Example: sdp plan run.toml --workers 8 --bandwidth 1Gbit");
  AddConfig(plan, &commands.plan.config_path, &commands.plan.sets);
  plan->add_option("--workers", commands.plan.workers, "Instead of cluster.workers")
      ->type_name("N");
  plan->add_option("--memory", commands.plan.memory,
                   "Instead of worker.memory, such as 2GiB: what sdp.coverage = \"auto\" fits")
      ->type_name("M");
  plan->add_option("--bandwidth", commands.plan.bandwidth,
                   "Also show how long each link is busy per step, at 1Gbit, 100Mbps, 125MB/s, ...")
      ->type_name("B");
  plan->add_flag("--json", commands.plan_json,
                 "For programs: the schema of plan.json in a run folder");
  return plan;
}

CLI::App* AddKubeRender(CLI::App& app, Commands& commands) {
  CLI::App* kube = app.add_subcommand("kube", "Runs on Kubernetes");
  kube->require_subcommand(1);
  CLI::App* render = kube->add_subcommand(
      "render", "Write a kustomization of a run, sized by its plan; starts nothing");
  render->footer("Example: sdp kube render run.toml --bandwidth 1Gbit --out kube");
  sdp::KubeRenderCommand& command = commands.kube_render;
  AddConfig(render, &command.config_path, &command.sets);
  render->add_option("--out", command.out, "The folder to write")->type_name("DIR")->required();
  render
      ->add_option("--on", command.on,
                   "The kustomization that has the objects; deploy/kubernetes/cpu, or gpu with "
                   "worker.device = \"cuda\"")
      ->type_name("DIR");
  render
      ->add_option("--tls", command.tls,
                   "The component that protects connections; none: plaintext, or --on has it")
      ->type_name("DIR|none")
      ->capture_default_str();
  render->add_option("--workers", command.workers, "Instead of cluster.workers")->type_name("N");
  render
      ->add_option("--bandwidth", command.bandwidth,
                   "Of a worker's link, at 1Gbit, 125MB/s, ...: as many shards as keep up, "
                   "instead of cluster.shards")
      ->type_name("B");
  render
      ->add_option("--shard-bandwidth", command.shard_bandwidth,
                   "Of a shard's link, if it is not that of a worker")
      ->type_name("B");
  return render;
}

// Of a command that speaks to a run that goes on.
void AddTarget(CLI::App* command, Commands& commands, std::string* target,
               sdp::SecurityOptions* security) {
  command->add_option("RUN|ADDR", *target, "A run folder, or the address of its coordinator")
      ->required();
  sdp::AddSecurityFlags(*command, [&commands](const std::string& key, const std::string& file) {
    const auto* const field = sdp::RunConfig::Security::descriptor()->FindFieldByName(key);
    commands.files.GetReflection()->SetString(&commands.files, field, file);
  });
  command->add_flag("--insecure", security->insecure, "Allow plaintext to another machine");
}

CLI::App* AddStatus(CLI::App& app, Commands& commands) {
  CLI::App* status =
      app.add_subcommand("status", "Show what a run and its processes do now, or how it ended");
  status->footer("Example: sdp status runs/first");
  AddTarget(status, commands, &commands.status.target, &commands.status.security);
  status->add_flag("--units", commands.status_units,
                   "Also who holds each unit, its version, and whose contributions are missing");
  status->add_flag("--json", commands.status_json, "For programs");
  return status;
}

CLI::App* AddTop(CLI::App& app, Commands& commands) {
  CLI::App* top = app.add_subcommand("top", "Watch a run: drawn anew as it changes, until Ctrl-C");
  top->footer("Example: sdp top runs/first");
  AddTarget(top, commands, &commands.top.target, &commands.top.security);
  top->add_option("--interval", commands.top.interval_sec,
                  "Seconds between two pictures at least; 1")
      ->check(CLI::Range(0.2, 3600.0));
  top->add_option("--frames", commands.top.frames, "End after so many pictures")
      ->check(CLI::Range(1, 1 << 30));
  return top;
}

CLI::App* AddProbe(CLI::App& app, Commands& commands) {
  CLI::App* probe = app.add_subcommand(
      "probe", "Ask a process whether it is well; for health checks that run a program");
  probe->footer(
      "Example: sdp probe 127.0.0.1:7000 --ready\nExit status 0: it is; 1: it is not, and why.");
  AddTarget(probe, commands, &commands.probe.target, &commands.probe.security);
  probe->add_flag("--ready", commands.ready,
                  "Whether it has all that it needs to do its part, not only whether it is alive");
  probe
      ->add_option_function<double>(
          "--timeout", [&](double seconds) { commands.probe.timeout = absl::Seconds(seconds); },
          "Seconds to wait for the answer; 5 if not given")
      ->check(CLI::Range(0.1, 3600.0));
  return probe;
}

CLI::App* AddDrain(CLI::App& app, Commands& commands) {
  CLI::App* drain = app.add_subcommand(
      "drain", "Let a worker leave the run once its steps are done, or a shard with a checkpoint");
  drain->footer("Example: sdp drain runs/first worker-3");
  AddTarget(drain, commands, &commands.drain.target, &commands.drain.security);
  drain->add_option("NAME", commands.drain.member, "Of the worker or shard")->required();
  return drain;
}

CLI::App* AddCheckpoint(CLI::App& app, Commands& commands) {
  CLI::App* checkpoint = app.add_subcommand(
      "checkpoint", "Take a checkpoint of a run now, and wait until it is there");
  checkpoint->footer("Example: sdp checkpoint runs/first");
  AddTarget(checkpoint, commands, &commands.checkpoint.target, &commands.checkpoint.security);
  checkpoint
      ->add_option_function<double>(
          "--timeout",
          [&](double seconds) { commands.checkpoint.timeout = absl::Seconds(seconds); },
          "Seconds to wait for it; 600 if not given")
      ->check(CLI::Range(0.0, 1e6));
  return checkpoint;
}

CLI::App* AddAudit(CLI::App& app, Commands& commands) {
  CLI::App* audit = app.add_subcommand(
      "audit", "Prove from a run's records that each training sample was used as promised");
  audit->footer("Example: sdp audit runs/first\nExit status 1: a sample was not, and which.");
  audit->add_option("RUN", commands.audit.run_dir, "A run folder")->required();
  audit->add_flag("--json", commands.audit_json, "For programs");
  return audit;
}

CLI::App* AddCerts(CLI::App& app, Commands& commands) {
  CLI::App* certs = app.add_subcommand(
      "certs", "Make an authority, a certificate and a join token for [security]");
  certs->footer(
      "Example: sdp certs --out certs --host node-1.example.org\n"
      "Again for the same folder, with another --name: another certificate of its authority.");
  certs->add_option("--out", commands.certs.out, "Folder for them")->required()->type_name("DIR");
  certs->add_option("--name", commands.certs.name, "Whose certificate, and the names of its files")
      ->capture_default_str();
  certs
      ->add_option("--host", commands.certs.hosts,
                   "Name or address at which others dial it, beside localhost; may be repeated")
      ->allow_extra_args(false);
  certs->add_option("--days", commands.certs.days, "How long it is valid")
      ->capture_default_str()
      ->check(CLI::Range(1, 3650));
  return certs;
}

// Runs `run`, once it is known how the run's processes are protected. An error that may come of
// that names the files.
template <typename Command, typename Run>
absl::Status OnRun(Command& command, const sdp::RunConfig::Security& given, Run run) {
  auto security = sdp::SecurityOfTarget(command.target, given, command.security);
  if (!security.ok()) return security.status();
  command.security = *std::move(security);
  const absl::Status status = run(command);
  if (command.security.identity == nullptr || status.ok() ||
      !(absl::IsUnavailable(status) || absl::IsUnauthenticated(status)))
    return status;
  return absl::Status(status.code(), absl::StrCat(status.message(), " (",
                                                  command.security.identity->description(), ")"));
}

// A command that speaks to a run's processes.
absl::Status SpeakToRun(Commands& commands, const std::string& name) {
  if (name == "drain") return OnRun(commands.drain, commands.files, sdp::RunDrainCommand);
  if (name == "checkpoint") {
    return OnRun(commands.checkpoint, commands.files,
                 [](const auto& command) { return sdp::RunCheckpointCommand(command, std::cout); });
  }
  if (name == "top") {
    return OnRun(commands.top, commands.files,
                 [](const auto& command) { return sdp::RunTopCommand(command, std::cout); });
  }
  if (name == "probe") {
    if (commands.ready) commands.probe.health = sdp::Health::kReady;
    return OnRun(commands.probe, commands.files,
                 [](const auto& command) { return sdp::RunProbeCommand(command, std::cout); });
  }
  using Format = sdp::StatusCommand::Format;
  if (commands.status_units) commands.status.units = sdp::StatusCommand::Units::kYes;
  commands.status.format = commands.status_json ? Format::kJson : Format::kTable;
  return OnRun(commands.status, commands.files,
               [](const auto& command) { return sdp::RunStatusCommand(command, std::cout); });
}

// Commands that the worker program runs, with all arguments as they are; here for `sdp --help`.
constexpr const char* kForWorker[][2] = {{"eval", "Show the loss of a full model on data"},
                                         {"generate", "Let a full model go on from a prompt"}};

// The folder of this program, where the role programs are too.
std::string ProgramFolder() {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? "." : self.parent_path().string();
}

int Report(const absl::Status& status) {
  if (status.ok()) return 0;
  std::cout << std::flush;
  std::cerr << "sdp: " << status.message() << std::endl;
  return sdp::ExitStatusOf(status);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Subnetwork Data Parallelism: each worker trains a part of the model, shards own the "
      "parameters.");
  app.require_subcommand(1);
  app.set_version_flag("--version", kVersion);
  app.footer("Example: sdp train run.toml\nHelp on a command: sdp COMMAND --help");
  Commands commands;
  CLI::App* const train = AddTrain(app, commands);
  CLI::App* const plan = AddPlan(app, commands);
  CLI::App* const kube_render = AddKubeRender(app, commands);
  CLI::App* const exporting = sdp::AddExportCommand(app, commands.exporting);
  for (const auto& [name, help] : kForWorker) {
    app.add_subcommand(name, help);
    if (argc > 1 && argv[1] == std::string(name)) {
      return Report(sdp::BecomeWorker(ProgramFolder(), name, {argv + 2, argv + argc}));
    }
  }
  AddStatus(app, commands);
  AddTop(app, commands);
  AddProbe(app, commands);
  AddDrain(app, commands);
  AddCheckpoint(app, commands);
  CLI::App* const audit = AddAudit(app, commands);
  CLI::App* const certs = AddCerts(app, commands);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help, --version
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    std::cerr << "sdp: " << error.what() << "\nHelp: sdp --help" << std::endl;
    return 2;
  }
  if (train->parsed()) {
    if (commands.train.force && commands.train.resume.empty()) {
      return Report(absl::InvalidArgumentError("--force goes with --resume"));
    }
    const bool given = !commands.train.init_path.empty() || !commands.train.pretrained.empty();
    if (!commands.train.resume.empty() && given) {
      return Report(absl::InvalidArgumentError(
          "--init and --from-pretrained are for a new run, not with --resume"));
    }
    using Action = sdp::TrainCommand::Action;
    using Transport = sdp::TrainCommand::Transport;
    commands.train.action = commands.print_config ? Action::kPrintConfig : Action::kTrain;
    commands.train.transport = commands.unix_sockets ? Transport::kUnixSockets : Transport::kTcp;
    if (commands.metrics) commands.train.metrics = sdp::LocalClusterOptions::Metrics::kOnLoopback;
    commands.train.program_dir = ProgramFolder();
    commands.train.command_name = argv[0];
    return Report(sdp::RunTrainCommand(commands.train, std::cout, std::cerr));
  }
  if (plan->parsed()) {
    using Format = sdp::PlanCommand::Format;
    commands.plan.format = commands.plan_json ? Format::kJson : Format::kTable;
    return Report(sdp::RunPlanCommand(commands.plan, std::cout, std::cerr));
  }
  if (kube_render->parsed())
    return Report(sdp::RunKubeRenderCommand(commands.kube_render, std::cout, std::cerr));
  if (exporting->parsed()) {
    const auto with_torch = [&](sdp::StoredModel&) {
      return sdp::BecomeWorker(ProgramFolder(), argv[1], {argv + 2, argv + argc});
    };
    return Report(sdp::RunExportCommand(commands.exporting, with_torch, std::cout, std::cerr));
  }
  if (certs->parsed()) return Report(sdp::RunCertsCommand(commands.certs, std::cout));
  if (audit->parsed()) {
    using Format = sdp::AuditCommand::Format;
    commands.audit.format = commands.audit_json ? Format::kJson : Format::kTable;
    return Report(sdp::RunAuditCommand(commands.audit, std::cout));
  }
  return Report(SpeakToRun(commands, app.get_subcommands().front()->get_name()));
}

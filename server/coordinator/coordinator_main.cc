// sdp-coordinator: knows the members, the plan, the step and the data cursor of one run.
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <future>
#include <iostream>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/status.h"
#include "common/config/config.h"
#include "common/process/role.h"
#include "common/rpc/server.h"
#include "common/run/run_setup.h"
#include "server/coordinator/service/service.h"

namespace sdp {
namespace {

struct Flags : RoleFlags {
  std::string listen = "127.0.0.1:0";
  std::string advertise;     // "": where it listens
  std::string address_file;  // "": none
};

// Points to `setup`.
absl::StatusOr<Coordinator::Options> LogicOptions(const RunSetup& setup) {
  const RunConfig& config = setup.config;
  Coordinator::Options options;
  options.catalog = &setup.catalog;
  options.layout = &setup.layout;
  options.config_hash = setup.config_hash;
  options.shards = static_cast<int>(config.cluster().shards());
  options.workers = static_cast<int>(config.cluster().workers());
  options.coverage = setup.coverage;
  options.rescale = config.sdp().rescale() == "eval";
  SDP_ASSIGN_OR_RETURN(options.assignment, AssignmentFrom(config.sdp()));
  options.seed = static_cast<uint64_t>(config.train().seed());
  options.rotate_every = config.sdp().rotate_every();
  options.steps = config.train().steps();
  options.global_batch = config.train().global_batch();
  options.micro_batch = config.train().micro_batch();
  options.tokens_per_sample = config.data().seq_len();
  options.eval_every = config.train().eval_every();
  options.eval_samples = config.train().eval_samples();
  options.validation = config.data().validation_size() > 0;
  options.clip_norm = config.train().clip_norm();
  return options;
}

// A plan that cannot be made is an error now, not when all members are there.
absl::Status CheckPlan(const RunSetup& setup) {
  SDP_ASSIGN_OR_RETURN(std::vector<Rank> ranks, RanksFrom(setup.config));
  SDP_ASSIGN_OR_RETURN(const PlanInput input, PlanInputFrom(setup, std::move(ranks), 0));
  return MakePlan(input).status();
}

struct Outcome {
  absl::Status status;
  std::string summary;
};

// From the first message to the last. `began` tells whether the run folder has a run now.
absl::Status Serve(const Flags& flags, const RunSetup& setup, RunFolder* folder, bool* began) {
  const pid_t parent = getppid();
  std::promise<Outcome> ended;
  EventLoop loop("coordinator");  // First: the others' threads post to it until they are joined.
  SDP_ASSIGN_OR_RETURN(const std::unique_ptr<SqliteStore> store,
                       SqliteStore::Open(folder->store_path()));
  CoordinatorService::Options options;
  SDP_ASSIGN_OR_RETURN(options.logic, LogicOptions(setup));
  options.security.insecure = flags.insecure;
  options.print = [](const std::string& line) { std::cout << line << std::endl; };
  options.log = [](const std::string& line) { spdlog::info("{}", line); };
  options.ended = [&ended](absl::Status status, std::string summary) {
    ended.set_value({std::move(status), std::move(summary)});
  };
  CoordinatorService service(std::move(options), &loop, store.get(), folder);
  SDP_ASSIGN_OR_RETURN(const std::unique_ptr<RpcServer> server,
                       RpcServer::Start(flags.listen, {flags.insecure}, {service.rpc()}));
  const std::string address = flags.advertise.empty() ? server->address() : flags.advertise;
  absl::Status ready = folder->WriteAddress(address);
  if (ready.ok() && !flags.address_file.empty())
    ready = WriteFileAtomically(flags.address_file, address + "\n");
  *began = ready.ok();
  spdlog::info("listening at {}, run folder {}", address, folder->path());

  StopOnSignal signals([&](const std::string& signal) {
    // Without the launcher there is nobody to finish for: its other children are going too.
    if (flags.die_with_parent && getppid() != parent) {
      service.End(absl::CancelledError("the process that started this run is gone"));
    } else {
      service.Stop(signal);
    }
  });
  service.Start();
  if (!ready.ok()) service.End(ready);
  const Outcome outcome = ended.get_future().get();
  std::cout << outcome.summary << std::flush;
  server->Shutdown(absl::Seconds(1));
  loop.Stop();
  return outcome.status;
}

absl::Status Main(const Flags& flags) {
  SDP_ASSIGN_OR_RETURN(const LoadedConfig loaded, LoadConfig(flags.config, flags.sets));
  SDP_ASSIGN_OR_RETURN(const RunSetup setup, MakeRunSetup(loaded.config));
  SDP_RETURN_IF_ERROR(CheckPlan(setup));
  SDP_RETURN_IF_ERROR(Context(CheckAddress(flags.listen, {flags.insecure}), "--listen"));
  SDP_ASSIGN_OR_RETURN(const std::unique_ptr<RunFolder> folder,
                       RunFolder::Create(setup.config.run().dir()));
  bool began = false;
  absl::Status status = WriteResolved(loaded, folder->config_path());
  if (status.ok()) status = Serve(flags, setup, folder.get(), &began);
  if (!began) folder->Discard();
  return status;
}

}  // namespace
}  // namespace sdp

int main(int argc, char** argv) {
  sdp::Flags flags;
  flags.name = "coordinator";
  CLI::App app("Coordinates one training run: members, plan, steps, evaluation, metrics.",
               "sdp-coordinator");
  sdp::AddRoleFlags(app, &flags);
  app.add_option("--listen", flags.listen,
                 "address to listen on: HOST:PORT (port 0: any free one) or unix:PATH")
      ->capture_default_str();
  app.add_option("--advertise", flags.advertise,
                 "address at which others reach it, if not the one it listens on");
  app.add_option("--address-file", flags.address_file,
                 "file into which the address is written once it listens");
  app.add_option("--name", flags.name, "for log lines")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  sdp::BeginRole(flags);
  sdp::Leave(flags.name, sdp::Main(flags));
}

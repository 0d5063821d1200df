// sdp-coordinator: knows the members, the plan, the step and the data cursor of one run.
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <future>
#include <iostream>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/checkpoint/checkpoint_reader.h"
#include "common/config/config.h"
#include "common/metrics/families.h"
#include "common/metrics/metrics_server.h"
#include "common/process/role.h"
#include "common/process/role_security.h"
#include "common/rpc/health_service.h"
#include "common/rpc/made_on.h"
#include "common/rpc/server.h"
#include "common/run/run_setup.h"
#include "server/coordinator/page/serve_page.h"
#include "server/coordinator/service/resume.h"
#include "server/coordinator/service/run_metrics.h"
#include "server/coordinator/service/service.h"

namespace sdp {
namespace {

struct Flags : RoleFlags {
  std::string listen = "127.0.0.1:0";
  std::string advertise;     // "": where it listens
  std::string address_file;  // "": none
  StartFrom start;           // of a first start
  std::string resume;        // "latest" or a step; "": a first start
  bool force = false;        // with resume
  bool recover = false;
  std::string page;        // address of the status page; "": none
  std::string page_token;  // a file; "": none
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
  options.min_workers = static_cast<int>(config.cluster().min_workers());
  options.max_workers = static_cast<int>(config.cluster().max_workers());
  options.coverage = setup.coverage;
  options.phases = setup.phases;
  options.rescale = setup.rescale;
  SDP_ASSIGN_OR_RETURN(options.assignment, AssignmentFrom(config.sdp()));
  options.seed = static_cast<uint64_t>(config.train().seed());
  options.rotate_every = config.sdp().rotate_every();
  options.steps = config.train().steps();
  options.global_batch = config.train().global_batch();
  options.worker_batch = config.train().worker_batch();
  if (config.cluster().portions() == "measured")
    options.portions = Coordinator::Options::Portions::kMeasured;
  options.micro_batch = config.train().micro_batch();
  options.tokens_per_sample = config.data().seq_len();
  options.eval_every = config.train().eval_every();
  options.eval_samples = config.train().eval_samples();
  options.validation = config.data().validation_size() > 0;
  options.diagnostics_every = config.diagnostics().every();
  options.clip_norm = config.train().clip_norm();
  options.spike_factor = config.train().spike_factor();
  options.checkpoint_every = config.checkpoint().every();
  if (config.checkpoint().every_minutes() > 0)
    options.checkpoint_after = absl::Minutes(config.checkpoint().every_minutes());
  std::error_code error;
  options.checkpoints =
      std::filesystem::absolute(CheckpointsPath(config), error).lexically_normal().string();
  return options;
}

// The run folder, locked, and what the run begins with.
struct Opened {
  std::unique_ptr<RunFolder> folder;
  std::unique_ptr<SqliteStore> store;
  Beginning beginning;
  // Of a generation that is taken up: what is left of the process before this one, and whether it
  // had come to the end.
  std::optional<Coordinator::Written> left;
  std::vector<Record> records;
  std::optional<absl::Status> end;
};

absl::StatusOr<Opened> OpenNew(const Flags& flags, const RunSetup& setup) {
  Opened opened;
  SDP_ASSIGN_OR_RETURN(opened.beginning, BeginRun(setup, flags.start));
  const std::string checkpoints = CheckpointsPath(setup.config);
  SDP_ASSIGN_OR_RETURN(const std::vector<Step> others, ListCheckpoints(checkpoints));
  if (!others.empty()) {
    return absl::AlreadyExistsError(absl::StrCat("checkpoint.dir ", checkpoints,
                                                 " has checkpoints of another run (step ",
                                                 others.back(), "): choose another one"));
  }
  SDP_RETURN_IF_ERROR(CheckRoom(setup, 0, checkpoints, FreeBytes(checkpoints)));
  SDP_ASSIGN_OR_RETURN(opened.folder, RunFolder::Create(setup.config.run().dir()));
  absl::StatusOr<std::unique_ptr<SqliteStore>> store =
      SqliteStore::Open(opened.folder->store_path());
  if (!store.ok()) {
    opened.folder->Discard();
    return store.status();
  }
  opened.store = *std::move(store);
  return opened;
}

absl::StatusOr<Opened> OpenAgain(const Flags& flags, const RunSetup& setup) {
  Opened opened;
  SDP_ASSIGN_OR_RETURN(opened.folder, RunFolder::Open(setup.config.run().dir()));
  SDP_ASSIGN_OR_RETURN(opened.store, SqliteStore::Open(opened.folder->store_path()));
  ResumeRequest request;
  if (flags.resume != "latest") {
    Step step = -1;
    if (!absl::SimpleAtoi(flags.resume, &step) || step < 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--resume ", flags.resume, ": allowed are latest or the step of a checkpoint"));
    }
    request.step = step;
  }
  request.force = flags.force;
  request.checkpoints = CheckpointsPath(setup.config);
  SDP_ASSIGN_OR_RETURN(const LoadedConfig before, LoadConfig(opened.folder->config_path(), {}));
  request.before = before.config;
  SDP_ASSIGN_OR_RETURN(request.records, opened.store->Read());
  SDP_ASSIGN_OR_RETURN(opened.beginning, ResumeRun(setup, request));
  const GenerationStart& start = opened.beginning.start;
  SDP_ASSIGN_OR_RETURN(const std::vector<std::string> notes,
                       ClearTheWay(request.checkpoints, start));
  opened.beginning.notes.insert(opened.beginning.notes.end(), notes.begin(), notes.end());
  SDP_RETURN_IF_ERROR(
      CheckRoom(setup, start.state.step, request.checkpoints, FreeBytes(request.checkpoints)));
  return opened;
}

// The run that a process before this one has left in the folder, as it is; or a new one.
absl::StatusOr<Opened> TakeUp(const Flags& flags, const RunSetup& setup) {
  absl::StatusOr<std::unique_ptr<RunFolder>> folder = RunFolder::Open(setup.config.run().dir());
  if (absl::IsNotFound(folder.status())) return OpenNew(flags, setup);
  if (!folder.ok()) return folder.status();
  Opened opened;
  opened.folder = *std::move(folder);
  SDP_ASSIGN_OR_RETURN(opened.store, SqliteStore::Open(opened.folder->store_path()));
  ResumeRequest request;
  request.checkpoints = CheckpointsPath(setup.config);
  SDP_ASSIGN_OR_RETURN(const LoadedConfig before, LoadConfig(opened.folder->config_path(), {}));
  request.before = before.config;
  SDP_ASSIGN_OR_RETURN(request.records, opened.store->Read());
  SDP_ASSIGN_OR_RETURN(std::optional<Beginning> beginning, TakeUpRun(setup, request));
  if (!beginning.has_value()) {  // it ended before all shards were there
    SDP_ASSIGN_OR_RETURN(opened.beginning, BeginRun(setup, flags.start));
    return opened;
  }
  opened.beginning = *std::move(beginning);
  Coordinator::Written& left = opened.left.emplace();
  SDP_ASSIGN_OR_RETURN(const auto line, opened.folder->NewestLine());
  if (line.has_value() && line->generation == opened.beginning.start.generation) {
    left.line = line->step;
    if (line->closing) {
      opened.end = line->step >= setup.config.train().steps()
                       ? absl::OkStatus()
                       : absl::CancelledError(absl::StrCat("stopped at step ", line->step));
    }
  }
  SDP_ASSIGN_OR_RETURN(const std::vector<Step> complete, ListCheckpoints(request.checkpoints));
  left.checkpoints.insert(complete.begin(), complete.end());
  opened.records = std::move(request.records);
  return opened;
}

// A plan that cannot be made is an error now, not when all members are there.
absl::Status CheckPlan(const RunSetup& setup) {
  SDP_ASSIGN_OR_RETURN(std::vector<Rank> ranks, RanksFrom(setup.config));
  SDP_ASSIGN_OR_RETURN(PlanInput input, PlanInputFrom(setup, std::move(ranks), 0));
  const MemoryModel memory = MemoryModelFrom(setup);
  input.memory = &memory;
  return MakePlan(input).status();
}

struct Outcome {
  absl::Status status;
  std::string summary;
};

// A status for /metrics, which counts workers and lists none.
std::vector<prometheus::MetricFamily> Collect(EventLoop* loop, const CoordinatorService& service) {
  const auto status = MadeOn<proto::RunStatus>(
      loop, absl::Seconds(2), [&service] { return service.Status(proto::GetStatusRequest()); });
  return FamiliesOf(status.value_or(proto::RunStatus()), MemoryOfThisProcess());
}

// For the status page. Nothing: the loop is busy.
std::optional<StatusPage::Snapshot> Look(EventLoop* loop, const CoordinatorService& service,
                                         const proto::GetStatusRequest& request) {
  return MadeOn<StatusPage::Snapshot>(loop, absl::Seconds(2), [&service, request] {
    return StatusPage::Snapshot{service.Status(request), service.curves()};
  });
}

// From the first message to the last. `began` tells whether the run folder has a run now.
absl::Status Serve(const Flags& flags, const SecurityOptions& security, const RunSetup& setup,
                   const std::string& config, const Opened& opened, bool* began) {
  const pid_t parent = getppid();
  std::promise<Outcome> ended;
  EventLoop loop("coordinator");  // First: the others' threads post to it until they are joined.
  RunFolder* const folder = opened.folder.get();
  CoordinatorService::Options options;
  SDP_ASSIGN_OR_RETURN(options.logic, LogicOptions(setup));
  options.logic.config = config;
  options.logic.start = opened.beginning.start;
  options.logic.start.notes = opened.beginning.notes;
  if (options.logic.spike_factor > 0)
    options.logic.start.losses = folder->NewestLosses(LossWatch::kWindow);
  options.logic.coverage = opened.beginning.coverage;
  options.go_back = [&setup, coverage = opened.beginning.coverage](GenerationStart next) {
    return GoBack(setup, CheckpointsPath(setup.config), coverage, std::move(next));
  };
  options.keep_checkpoints = static_cast<int>(setup.config.checkpoint().keep_last());
  const MemoryModel memory = MemoryModelFrom(setup);
  options.memory = memory;
  options.logic.memory = &memory;
  options.element_bytes = ElementBytesFrom(setup.precision);
  options.security = security;
  options.instance = RandomInstance();
  options.print = [](const std::string& line) { std::cout << line << std::endl; };
  options.log = [](const std::string& line) { spdlog::info("{}", line); };
  std::once_flag first;
  const auto finish = [&](Outcome outcome) {
    std::call_once(first, [&] { ended.set_value(std::move(outcome)); });
  };
  options.ended = [&finish](absl::Status status, std::string summary) {
    finish({std::move(status), std::move(summary)});
  };
  CoordinatorService service(std::move(options), &loop, opened.store.get(), folder);
  HealthService health({.alive = CheckedOn(&loop, [] { return absl::OkStatus(); }),
                        .ready = CheckedOn(&loop, [&service] { return service.Ready(); })});
  SDP_ASSIGN_OR_RETURN(const std::unique_ptr<RpcServer> server,
                       RpcServer::Start(flags.listen, security, {service.rpc(), &health}));
  SDP_ASSIGN_OR_RETURN(
      std::unique_ptr<HttpServer> metrics,
      ServeMetrics(flags.metrics, security, [&] { return Collect(&loop, service); }));
  SDP_ASSIGN_OR_RETURN(
      std::unique_ptr<HttpServer> page,
      ServePage({flags.page, flags.page_token, security},
                [&](const auto& request) { return Look(&loop, service, request); }));
  service.SetHttpAddresses(metrics == nullptr ? "" : metrics->address(),
                           page == nullptr ? "" : page->address());
  if (metrics != nullptr) spdlog::info("metrics at http://{}/metrics", metrics->address());
  if (page != nullptr) std::cout << "status page: http://" << page->address() << "/" << std::endl;
  const std::string address = flags.advertise.empty() ? server->address() : flags.advertise;
  absl::Status ready = folder->WriteAddress(address);
  if (ready.ok() && !flags.address_file.empty())
    ready = WriteFileAtomically(flags.address_file, address + "\n");
  *began = ready.ok();
  spdlog::info("listening at {}, run folder {}", address, folder->path());
  for (const std::string& note : opened.beginning.notes) std::cout << note << std::endl;

  std::promise<void> signalled;
  StopOnSignal signals([&](const std::string& signal) {
    if (flags.supervised) {
      finish({absl::CancelledError(absl::StrCat("ended by ", signal, "; the run is not")), ""});
      return signalled.set_value();
    }
    // Without the launcher there is nobody to finish for: its other children are going too.
    if (flags.die_with_parent && getppid() != parent) {
      service.End(absl::CancelledError("the process that started this run is gone"));
    } else {
      service.Stop(signal);
    }
  });
  if (opened.left.has_value()) {
    service.Restore(opened.records, *opened.left);
  } else {
    service.Start();
  }
  if (opened.end.has_value()) service.End(*opened.end);  // who has not heard of it does now
  if (!ready.ok()) service.End(ready);
  const Outcome outcome = ended.get_future().get();
  std::cout << outcome.summary << std::flush;
  if (flags.supervised && outcome.status.ok()) {
    // Another process would only say the same, and its status be gone meanwhile.
    spdlog::info("the run is finished; its status is here until a signal ends this process");
    signalled.get_future().wait();
  }
  server->Shutdown(absl::Seconds(1));
  page = nullptr;  // these two ask the loop
  metrics = nullptr;
  loop.Stop();
  return outcome.status;
}

bool HasSteps(const RunFolder& folder) {
  const absl::StatusOr<std::unique_ptr<SqliteStore>> store = SqliteStore::Open(folder.store_path());
  if (!store.ok()) return true;
  const absl::StatusOr<std::vector<Record>> records = (*store)->Read();
  return !records.ok() || std::any_of(records->begin(), records->end(), [](const Record& record) {
    return std::holds_alternative<BindingRecord>(record);
  });
}

absl::Status Main(const Flags& flags) {
  SDP_ASSIGN_OR_RETURN(const LoadedConfig loaded, LoadConfig(flags.config, flags.sets));
  SDP_ASSIGN_OR_RETURN(const RunSetup setup, MakeRunSetup(loaded.config));
  SDP_RETURN_IF_ERROR(CheckPlan(setup));
  SDP_ASSIGN_OR_RETURN(const SecurityOptions security,
                       RoleSecurity(flags, loaded.config.security()));
  SDP_RETURN_IF_ERROR(Context(CheckAddress(flags.listen, security), "--listen"));
  const bool resume = !flags.resume.empty();
  if (resume && flags.supervised) {
    return absl::InvalidArgumentError("--supervised takes up the run as --recover, not --resume");
  }
  const bool given = !flags.start.init_file.empty() || !flags.start.pretrained.empty();
  if (resume && given) {
    return absl::InvalidArgumentError(
        "--init and --from-pretrained are for a run's first start, not with --resume");
  }
  absl::StatusOr<Opened> opened = resume                              ? OpenAgain(flags, setup)
                                  : flags.recover || flags.supervised ? TakeUp(flags, setup)
                                                                      : OpenNew(flags, setup);
  if (!opened.ok()) return opened.status();
  bool began = false;
  absl::Status status = WriteResolved(loaded, opened->folder->config_path());
  if (status.ok()) status = Serve(flags, security, setup, PrintConfig(loaded), *opened, &began);
  // Whatever ended it: a run without a step may be tried again in the same folder. Logs stay.
  opened->store = nullptr;
  if (!resume && !flags.supervised && !opened->left.has_value() &&
      (!began || !HasSteps(*opened->folder)))
    opened->folder->Discard();
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
  app.add_option(
      "--init", flags.start.init_file,
      "initial values: a safetensors file with the model's tensors, which shards see too");
  app.add_option("--from-pretrained", flags.start.pretrained,
                 "start from the dense LLaMA in a folder of Hugging Face's, which shards see too; "
                 "[model] must be its")
      ->excludes("--init");
  app.add_option("--resume", flags.resume,
                 "go on with the run of the run folder: latest, or the step of a checkpoint");
  app.add_flag("--recover", flags.recover,
               "for a process that is started again whenever it ends: take up the run of the run "
               "folder where it is, whose members wait; or begin it")
      ->excludes("--resume");
  app.add_option("--page", flags.page,
                 "serve the run's status page, in plain HTTP, at HOST:PORT (port 0: any free one)")
      ->type_name("ADDR");
  app.add_option("--page-token", flags.page_token,
                 "file with the token that the page wants, as password; it must have one beyond "
                 "this machine's loopback")
      ->type_name("FILE");
  app.add_flag("--force", flags.force, "with --resume: also with another configuration or data");
  app.add_option("--name", flags.name, "for log lines")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  sdp::BeginRole(flags);
  sdp::Leave(flags.name, sdp::Main(flags));
}

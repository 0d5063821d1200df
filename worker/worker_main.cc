// sdp-worker: trains one subnetwork on one device; or evaluates a full model, or samples from it.
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/status.h"
#include "common/config/config.h"
#include "common/process/lives.h"
#include "common/process/memory_limit.h"
#include "common/process/role.h"
#include "common/process/role_security.h"
#include "common/run/run_setup.h"
#include "worker/data/dataset.h"
#include "worker/data/image_dataset.h"
#include "worker/inference/inference_main.h"
#include "worker/model/make_model.h"
#include "worker/service/status_server.h"
#include "worker/service/worker_board.h"
#include "worker/service/worker_service.h"

namespace sdp {
namespace {

enum class Split { kTrain, kValidation };

absl::StatusOr<std::unique_ptr<Dataset>> OpenData(const RunConfig& config, Split split) {
  const bool training = split == Split::kTrain;
  const auto& files = training ? config.data().train() : config.data().validation();
  const std::vector<std::string> paths(files.begin(), files.end());
  const std::string& kind = config.data().kind();
  absl::StatusOr<std::unique_ptr<Dataset>> data;
  if (kind == "text") {
    data = OpenText(paths, config.data().seq_len(), config.model().vocab());
  } else if (kind == "tokens") {
    data = OpenTokens(paths, config.data().seq_len(), config.model().vocab());
  } else {
    ImageOptions options = {.image_size = config.model().image_size(),
                            .classes = config.model().classes()};
    if (training) options.augmentation_seed = static_cast<uint64_t>(config.train().seed());
    data = OpenImages(*FindImageKind(kind), paths, options);
  }
  if (!data.ok()) return Context(data.status(), training ? "data.train" : "data.validation");
  return data;
}

// Classes that go by another name would be counted as wrong without a word.
absl::Status CheckSameClasses(const Dataset& training, const Dataset& validation) {
  if (training.images() == nullptr ||
      training.images()->class_names() == validation.images()->class_names()) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      "data.train, data.validation: their sub-folders, the classes, have different names");
}

// The given number of threads, or this worker's share of the cores.
int Threads(const RunConfig& config) {
  if (config.worker().threads() > 0) return static_cast<int>(config.worker().threads());
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  return std::max(1, cores / static_cast<int>(config.cluster().workers()));
}

// What the worker may use to train: as configured, else what its device has. 0: not known.
absl::StatusOr<int64_t> MemoryBudget(const ModelOptions& options) {
  if (options.memory_bytes > 0) return options.memory_bytes;
  if (options.device == Device::kCuda) return FreeGpuMemory();
  const std::optional<int64_t> limit = CgroupMemoryLimit();
  // Code and libraries are there already.
  return limit.has_value() ? std::max<int64_t>(*limit - PeakMemoryBytes(), 1) : 0;
}

struct Flags : RoleFlags {
  std::string listen, advertise;  // "": nowhere; where it listens
  double grace_sec = 0;
};

absl::Status Main(const Flags& flags) {
  const absl::Duration grace = absl::Seconds(flags.grace_sec);
  SDP_ASSIGN_OR_RETURN(const LoadedConfig loaded, LoadConfig(flags.config, flags.sets));
  SDP_ASSIGN_OR_RETURN(const RunSetup setup, MakeRunSetup(loaded.config));
  SDP_ASSIGN_OR_RETURN(const SecurityOptions security,
                       RoleSecurity(flags, loaded.config.security()));
  SDP_ASSIGN_OR_RETURN(const std::unique_ptr<Dataset> training,
                       OpenData(setup.config, Split::kTrain));
  std::unique_ptr<Dataset> validation;
  if (setup.config.data().validation_size() > 0) {
    SDP_ASSIGN_OR_RETURN(validation, OpenData(setup.config, Split::kValidation));
    SDP_RETURN_IF_ERROR(CheckSameClasses(*training, *validation));
  }

  ModelOptions model_options;
  model_options.threads = Threads(setup.config);
  if (!setup.config.worker().memory().empty()) {
    SDP_ASSIGN_OR_RETURN(model_options.memory_bytes, ParseBytes(setup.config.worker().memory()));
  }
  model_options.precision = setup.precision;
  const bool on_gpu = setup.config.worker().device() == "cuda";
  if (on_gpu) model_options.device = Device::kCuda;
  SDP_ASSIGN_OR_RETURN(const std::unique_ptr<LocalModel> model,
                       MakeTorchModel(setup.catalog, setup.layout, setup.model, training.get(),
                                      validation.get(), model_options));
  spdlog::info("{} training samples, {} threads, {} on {}", training->samples(),
               model_options.threads, setup.config.train().precision(),
               setup.config.worker().device());

  WorkerService::Options options;
  options.coordinator = flags.coordinator;
  options.security = security;
  options.name = flags.name;
  options.config_hash = setup.config_hash;
  options.precision = setup.precision;
  if (on_gpu) options.computes = MemoryPlace::kGpu;
  SDP_ASSIGN_OR_RETURN(options.memory_bytes, MemoryBudget(model_options));
  options.data.train_samples = training->samples();
  options.data.train_checksum = training->checksum();
  if (validation != nullptr) {
    options.data.validation_samples = validation->samples();
    options.data.validation_checksum = validation->checksum();
  }
  options.worker.name = flags.name;
  options.worker.catalog = &setup.catalog;
  options.worker.layout = &setup.layout;
  options.worker.masking = setup.masking;
  options.worker.rescale = setup.rescale;
  options.worker.seed = static_cast<uint64_t>(setup.config.train().seed());
  options.worker.shuffle = setup.config.data().shuffle();
  options.worker.terms_per_sample = setup.terms_per_sample;
  options.worker.steps = setup.config.train().steps();
  if (flags.supervised) options.worker.left = absl::CancelledError("it has left the run");
  options.worker.skip_not_finite = setup.config.train().on_nonfinite() == "skip";
  using WorkerLives = Lives<WorkerService>;
  WorkerBoard board(flags.name);
  options.board = &board;
  SDP_ASSIGN_OR_RETURN(
      const std::unique_ptr<WorkerStatusServer> status_server,
      WorkerStatusServer::Start({flags.listen, flags.advertise, flags.metrics, options.security},
                                &board));
  WorkerLives lives([&] {
    options.before = std::exchange(options.instance, RandomInstance());
    return std::make_unique<WorkerService>(options, model.get());
  });
  StopOnSignal signals([&](const std::string& signal) {
    const std::string why = absl::StrCat("ended by ", signal);
    lives.Leave(why, [&](WorkerService& service) { service.Leave(grace, why); });
  });
  const absl::Status end = lives.Run([](const absl::Status& why) {
    spdlog::warn("out of the run: {}; registering again", std::string(why.message()));
  });
  // A Job is done when one of its processes ends with 0: when there is nothing more to do.
  const bool came_late = flags.supervised && absl::IsOutOfRange(end);
  return came_late ? absl::OkStatus() : end;
}

}  // namespace
}  // namespace sdp

int main(int argc, char** argv) {
  if (argc > 1 && sdp::IsInferenceCommand(argv[1])) sdp::InferenceMain(argc, argv);
  sdp::Flags flags;
  CLI::App app("Trains one subnetwork of a run on one device.", "sdp-worker");
  sdp::AddRoleFlags(app, &flags);
  app.add_option("--coordinator", flags.coordinator, "address of the coordinator")->required();
  app.add_option("--name", flags.name, "name of this worker: worker-0, worker-1, ...")->required();
  app.add_option("--listen", flags.listen,
                 "also answer for its health and status at HOST:PORT (port 0: any free one) or "
                 "unix:PATH; without it the worker opens no port");
  app.add_option("--advertise", flags.advertise,
                 "address at which others reach it, if not the one it listens on");
  app.add_option("--grace", flags.grace_sec,
                 "seconds, after SIGTERM, to finish the steps that are bound to this worker and "
                 "leave the run in order; 0: "
                 "none")
      ->check(CLI::Range(0.0, 1e6));
  app.add_option_function<std::string>(
         "--memory",
         [&flags](const std::string& given) { flags.sets.push_back("worker.memory=" + given); },
         "instead of worker.memory, such as 2GiB: it gets no more units than fit")
      ->type_name("M");
  CLI11_PARSE(app, argc, argv);
  sdp::BeginRole(flags);
  sdp::Leave(flags.name, sdp::Main(flags));
}

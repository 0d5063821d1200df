#include "deploy/command/kube_command.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/config/config.h"
#include "common/data/small_file.h"
#include "common/run/run_setup.h"
#include "deploy/command/bandwidth.h"
#include "deploy/command/fitting_config.h"
#include "deploy/command/kube_sizes.h"
#include "deploy/command/plan_command.h"

namespace sdp {
namespace {

namespace fs = std::filesystem;

// Where Pods see the shared volume (deploy/kubernetes/base/).
constexpr char kShared[] = "/shared/";

absl::Status CheckData(const RunConfig& config) {
  for (const auto* paths : {&config.data().train(), &config.data().validation()}) {
    for (const std::string& path : *paths) {
      if (absl::StartsWith(path, kShared)) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          paths == &config.data().train() ? "data.train" : "data.validation", " = \"", path,
          "\": Pods see the shared volume at /shared, so give the path there, such as ", kShared,
          "data/", fs::path(path).filename().string()));
    }
  }
  if (config.worker().device() == "cpu") return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("worker.device = \"", config.worker().device(),
                   "\": in Kubernetes only \"cpu\" is built, there is no image for others yet"));
}

// The configuration with which Pods start, and its plan.
struct Planned {
  FittingConfig config;
  RunSetup setup;
  PlanReport report;
};

absl::StatusOr<Planned> PlanFor(const std::string& path, std::vector<std::string> sets) {
  SDP_ASSIGN_OR_RETURN(FittingConfig config, LoadFittingConfig(path, std::move(sets)));
  SDP_RETURN_IF_ERROR(CheckData(config.loaded.config));
  SDP_ASSIGN_OR_RETURN(RunSetup setup, MakeRunSetup(config.loaded.config));
  SDP_ASSIGN_OR_RETURN(PlanReport report, ReportOf(setup, /*step=*/0));
  return Planned{std::move(config), std::move(setup), std::move(report)};
}

absl::StatusOr<Planned> PlanFor(const KubeRenderCommand& command) {
  std::vector<std::string> sets = command.sets;
  // The volumes of deploy/kubernetes/base/.
  sets.push_back("run.dir=/state/run");
  sets.push_back(absl::StrCat("checkpoint.dir=", kShared, "checkpoints"));
  if (command.workers.has_value())
    sets.push_back(absl::StrCat("cluster.workers=", *command.workers));
  if (command.bandwidth.empty()) {
    if (command.shard_bandwidth.empty()) return PlanFor(command.config_path, sets);
    return absl::InvalidArgumentError("--shard-bandwidth goes with --bandwidth, a worker's");
  }
  SDP_ASSIGN_OR_RETURN(const double of_worker, ParseBandwidth(command.bandwidth));
  double of_shard = of_worker;
  if (!command.shard_bandwidth.empty()) {
    SDP_ASSIGN_OR_RETURN(of_shard, ParseBandwidth(command.shard_bandwidth));
  }
  SDP_ASSIGN_OR_RETURN(const Planned first, PlanFor(command.config_path, sets));
  sets.push_back(absl::StrCat("cluster.shards=", ShardsForLinks(first.report, of_worker, of_shard,
                                                                first.setup.layout.fragments())));
  return PlanFor(command.config_path, sets);
}

std::string MiB(int64_t bytes) { return absl::StrCat(bytes >> 20, "Mi"); }

// A JSON patch of a container's resources: `cpu` is a limit too for who computes on it alone.
enum class Cpu { kRequest, kLimit };
std::string Resources(int64_t cpus, Cpu cpu, int64_t memory_bytes) {
  const std::string base = "/spec/template/spec/containers/0/resources";
  std::string patch;
  const auto replace = [&](const std::string& path, const std::string& value) {
    absl::StrAppend(&patch, "      - {op: replace, path: ", base, path, ", value: ", value, "}\n");
  };
  replace("/requests/cpu", absl::StrCat("\"", cpus, "\""));
  if (cpu == Cpu::kLimit) replace("/limits/cpu", absl::StrCat("\"", cpus, "\""));
  if (memory_bytes == 0) return patch;
  replace("/requests/memory", MiB(memory_bytes));
  replace("/limits/memory", MiB(memory_bytes));
  return patch;
}

constexpr int64_t kShardCpus = 1;

std::string Kustomization(const KubeSizes& sizes, const std::string& on) {
  return absl::StrCat(
      "# Made by `sdp kube render`, which makes it anew: put changes into a kustomization of your "
      "own on top of it.\n"
      "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [",
      on,
      "]\nconfigMapGenerator:\n  - {name: sdp-config, behavior: replace, files: [run.toml]}\n"
      "generatorOptions: {disableNameSuffixHash: true}\n"
      "replicas:\n  - {name: sdp-shard, count: ",
      sizes.shards,
      "}\npatches:\n"
      "  - target: {kind: Job, name: sdp-worker}\n    patch: |-\n"
      "      - {op: replace, path: /spec/parallelism, value: ",
      sizes.workers, "}\n", Resources(sizes.worker_cpus, Cpu::kLimit, sizes.worker_memory_bytes),
      "  - target: {kind: StatefulSet, name: sdp-shard}\n    patch: |-\n",
      Resources(kShardCpus, Cpu::kRequest, sizes.shard_memory_bytes));
}

// The same for the chart, which has the numbers of workers and shards from the configuration.
std::string Values(const KubeSizes& sizes) {
  const auto role = [](const std::string& name, int64_t cpus, Cpu cpu, int64_t memory_bytes) {
    const std::string memory = memory_bytes == 0 ? "" : absl::StrCat("memory: ", MiB(memory_bytes));
    const std::string both =
        absl::StrCat("cpu: \"", cpus, "\"", memory.empty() ? "" : ", ", memory);
    return absl::StrCat(name, ":\n  resources:\n    requests: {", both, "}\n    limits: {",
                        cpu == Cpu::kLimit ? both : memory, "}\n");
  };
  return absl::StrCat(
      "# Made by `sdp kube render`, for the chart deploy/kubernetes, with the configuration beside "
      "it:\n# helm install NAME deploy/kubernetes --values values.yaml --set-file "
      "config=run.toml\n",
      role("workers", sizes.worker_cpus, Cpu::kLimit, sizes.worker_memory_bytes),
      role("shards", kShardCpus, Cpu::kRequest, sizes.shard_memory_bytes));
}

absl::StatusOr<std::string> PathTo(const std::string& on, const std::string& from) {
  std::error_code error;
  if (!fs::exists(fs::path(on) / "kustomization.yaml", error)) {
    return absl::NotFoundError(absl::StrCat(
        "--on ", on,
        ": no kustomization.yaml there; it is deploy/kubernetes/cpu of sdp's sources"));
  }
  const fs::path path = fs::relative(on, from, error);
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("--on ", on));
  return path.string();
}

}  // namespace

absl::Status RunKubeRenderCommand(const KubeRenderCommand& command, std::ostream& out,
                                  std::ostream& warnings) {
  SDP_ASSIGN_OR_RETURN(const Planned planned, PlanFor(command));
  SDP_ASSIGN_OR_RETURN(const std::string on, PathTo(command.on, command.out));
  const KubeSizes sizes = SizesOf(planned.setup, planned.report);
  std::error_code error;
  fs::create_directories(command.out, error);
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("make ", command.out));
  SDP_RETURN_IF_ERROR(WriteResolved(planned.config.loaded, absl::StrCat(command.out, "/run.toml")));
  SDP_RETURN_IF_ERROR(
      WriteTextFile(absl::StrCat(command.out, "/kustomization.yaml"), Kustomization(sizes, on)));
  SDP_RETURN_IF_ERROR(WriteTextFile(absl::StrCat(command.out, "/values.yaml"), Values(sizes)));
  for (const std::string& warning : planned.report.warnings)
    warnings << "warning: " << warning << "\n";
  const auto memory = [](int64_t bytes) { return bytes == 0 ? "the base's memory" : MiB(bytes); };
  out << planned.config.weighed << sizes.workers << " workers of " << sizes.worker_cpus
      << " CPUs and " << memory(sizes.worker_memory_bytes) << ", " << sizes.shards << " shards of "
      << kShardCpus << " CPU and " << memory(sizes.shard_memory_bytes) << "\nkubectl apply -k "
      << command.out << std::endl;
  return absl::OkStatus();
}

}  // namespace sdp

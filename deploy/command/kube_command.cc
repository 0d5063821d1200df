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

// `--tls` and `--page` have the same word for it.
constexpr char kNone[] = "none";

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
  return absl::OkStatus();
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
  // Files of this machine; Pods have those of a Secret.
  for (const char* const key : {"ca", "cert", "key", "token", "server_name"})
    sets.push_back(absl::StrCat("security.", key, "=''"));
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

// The same for the chart, which has the numbers of workers and shards from the configuration.
std::string Values(const KubeSizes& sizes, bool tls) {
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
      "tls: ", tls ? "true" : "false", "\n",
      role("workers", sizes.worker_cpus, Cpu::kLimit, sizes.worker_memory_bytes),
      role("shards", kShardCpus, Cpu::kRequest, sizes.shard_memory_bytes));
}

// What it is made on, as paths from its folder.
struct Parts {
  std::string on;
  std::string tls;  // "": none
};

std::string Kustomization(const KubeSizes& sizes, const Parts& parts) {
  return absl::StrCat(
      "# Made by `sdp kube render`, which makes it anew: put changes into a kustomization of your "
      "own on top of it.\n"
      "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [",
      parts.on, "]\n", parts.tls.empty() ? "" : absl::StrCat("components: [", parts.tls, "]\n"),
      "configMapGenerator:\n  - {name: sdp-config, behavior: replace, files: [run.toml]}\n"
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

// `flag`: "--on" or "--tls", by which `folder` was given, or not.
absl::StatusOr<std::string> PathTo(const std::string& flag, const std::string& folder,
                                   const std::string& from) {
  std::error_code error;
  if (!fs::exists(fs::path(folder) / "kustomization.yaml", error)) {
    return absl::NotFoundError(absl::StrCat(
        flag, " ", folder, ": no kustomization.yaml there; it is ",
        flag == "--on" ? "cpu or gpu" : "tls", " of deploy/kubernetes of sdp's sources"));
  }
  const fs::path path = fs::relative(folder, from, error);
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat(flag, " ", folder));
  return path.string();
}

absl::StatusOr<Parts> PartsOf(const KubeRenderCommand& command, const KubeSizes& sizes) {
  Parts parts;
  const std::string on = !command.on.empty()     ? command.on
                         : sizes.worker_gpus > 0 ? "deploy/kubernetes/gpu"
                                                 : "deploy/kubernetes/cpu";
  SDP_ASSIGN_OR_RETURN(parts.on, PathTo("--on", on, command.out));
  if (command.tls == kNone) return parts;
  SDP_ASSIGN_OR_RETURN(parts.tls, PathTo("--tls", command.tls, command.out));
  return parts;
}

void Say(const KubeRenderCommand& command, const KubeSizes& sizes, std::ostream& out) {
  const auto memory = [](int64_t bytes) { return bytes == 0 ? "the base's memory" : MiB(bytes); };
  out << sizes.workers << " workers of " << (sizes.worker_gpus > 0 ? "1 GPU, " : "")
      << sizes.worker_cpus << " CPUs and " << memory(sizes.worker_memory_bytes) << ", "
      << sizes.shards << " shards of " << kShardCpus << " CPU and "
      << memory(sizes.shard_memory_bytes) << "\n";
  if (command.tls == kNone) {
    out << "without TLS, but for what it is made on\n";
  } else {
    out << "sdp certs --out certs --host sdp\nkubectl create secret generic sdp-tls "
           "--from-file=certs/ca.crt --from-file=certs/sdp.crt --from-file=certs/sdp.key "
           "--from-file=certs/token\n";
  }
  out << "kubectl apply -k " << command.out << std::endl;
}

}  // namespace

absl::Status RunKubeRenderCommand(const KubeRenderCommand& command, std::ostream& out,
                                  std::ostream& warnings) {
  SDP_ASSIGN_OR_RETURN(const Planned planned, PlanFor(command));
  const KubeSizes sizes = SizesOf(planned.setup, planned.report);
  SDP_ASSIGN_OR_RETURN(const Parts parts, PartsOf(command, sizes));
  std::error_code error;
  fs::create_directories(command.out, error);
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("make ", command.out));
  SDP_RETURN_IF_ERROR(WriteResolved(planned.config.loaded, absl::StrCat(command.out, "/run.toml")));
  SDP_RETURN_IF_ERROR(
      WriteTextFile(absl::StrCat(command.out, "/kustomization.yaml"), Kustomization(sizes, parts)));
  SDP_RETURN_IF_ERROR(WriteTextFile(absl::StrCat(command.out, "/values.yaml"),
                                    Values(sizes, command.tls != kNone)));
  for (const std::string& warning : planned.report.warnings)
    warnings << "warning: " << warning << "\n";
  out << planned.config.weighed;
  Say(command, sizes, out);
  return absl::OkStatus();
}

}  // namespace sdp

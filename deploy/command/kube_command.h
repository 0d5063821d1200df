#pragma once

#include <cstdint>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace sdp {

// `sdp kube render FILE --out DIR [--on DIR] [--tls DIR|none] [--workers N] [--bandwidth B]
// [--shard-bandwidth B] [--set key=value]...`: a kustomization of a run for Kubernetes, on top of
// another one that has its objects (deploy/kubernetes/): its configuration, TLS, how many workers
// and shards, and what each asks for, by the plan.
struct KubeRenderCommand {
  std::string config_path;
  std::vector<std::string> sets;  // "section.key=value"
  std::string out;                // the folder, which may be there
  std::string on;                 // "": deploy/kubernetes/ and cpu, or gpu by worker.device
  std::string tls = "deploy/kubernetes/tls";  // "none": plaintext, or `on` has it
  std::optional<int64_t> workers;             // as `--set cluster.workers=N`
  std::string bandwidth;        // of a worker's link; "": cluster.shards stays as it is
  std::string shard_bandwidth;  // of a shard's; "": that of a worker
};

// Writes DIR/kustomization.yaml, DIR/values.yaml (of the chart deploy/kubernetes) and DIR/run.toml
// anew, says on `out` what the run asks for and what to do next, and warnings of the plan on
// `warnings`. InvalidArgument, NotFound - of the config, the plan, a bandwidth, the folder that it
// is made on, or data outside the volume that Pods see; others - the file system's.
absl::Status RunKubeRenderCommand(const KubeRenderCommand& command, std::ostream& out,
                                  std::ostream& warnings);

}  // namespace sdp

#include "common/config/cross_rules.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "common/config/checks.h"
#include "common/config/config.h"
#include "common/config/fields.h"
#include "common/config/model_rules.h"
#include "common/config/value.h"
#include "common/plan/plan.h"
#include "proto/config.pb.h"

namespace sdp::config {
namespace {

// Counts are kept in int64; far below its end so that bytes and sums over workers fit too.
constexpr double kLargestCount = 0x1p56;

// Every worker computes the full model then: there is nothing to scale up for.
void CheckBackward(const RunConfig::Sdp& sdp, Checks* checks) {
  if (sdp.rescale() != "eval" && sdp.rescale() != "none") {
    checks->Fail({"sdp.masking", "sdp.rescale"},
                 "with backward masking every factor is 1; allowed are \"eval\" and \"none\"");
  }
}

bool BelowOne(double share, int64_t workers) {
  return share * static_cast<double>(workers) < 1 - kShareRounding;
}

std::string BelowOneHolder(int64_t workers) {
  return absl::StrCat("some units would have no holder; coverage must be at least 1 / workers = ",
                      TomlText({1.0 / static_cast<double>(workers)}));
}

// The least share that a phase, or [sdp], speaks of; 1 if none.
template <typename Shares>
double Least(const Shares& shares) {
  double least = shares.has_coverage() ? shares.coverage() : 1;
  for (const double share : shares.depth()) least = std::min(least, share);
  for (const auto& [kind, share] : shares.coverage_by()) least = std::min(least, share);
  return least;
}

void CheckPhases(const RunConfig& config, Checks* checks) {
  int64_t before = -1;
  for (const RunConfig::Sdp::Phase& phase : config.sdp().phases()) {
    const std::string which = absl::StrCat("phase from step ", phase.from());
    if (phase.from() <= before) {
      checks->Fail({"sdp.phases"}, absl::StrCat(which, " comes after that from step ", before,
                                                ": give them in the order of their steps"));
    }
    before = phase.from();
    if (phase.has_coverage() == (phase.depth_size() > 0)) {
      checks->Fail({"sdp.phases"}, absl::StrCat(which, " needs one of coverage and depth"));
    } else if (BelowOne(Least(phase), config.cluster().workers())) {
      checks->Fail({"sdp.phases", "cluster.workers"},
                   absl::StrCat(which, ": ", BelowOneHolder(config.cluster().workers())));
    }
  }
}

// What fits is weighed for one coverage of all units and steps.
void CheckAuto(const RunConfig& config, Checks* checks) {
  if (config.worker().memory().empty()) {
    checks->Fail({"sdp.coverage", "worker.memory"},
                 "say how much memory a worker has, such as \"2GiB\"");
  }
  if (config.sdp().coverage_by_size() > 0) {
    checks->Fail({"sdp.coverage", "sdp.coverage_by"}, "give numbers, or coverage alone");
  }
  if (config.sdp().phases_size() > 0) {
    checks->Fail({"sdp.coverage", "sdp.phases"}, "phases go from a coverage that is a number");
  }
}

void CheckMembers(const RunConfig& config, Checks* checks) {
  const RunConfig::Cluster& cluster = config.cluster();
  if (cluster.min_workers() > cluster.workers()) {
    checks->Fail({"cluster.min_workers", "cluster.workers"},
                 "a run begins with at least as many workers as it needs");
  }
  if (cluster.max_workers() > 0 && cluster.max_workers() < cluster.workers()) {
    checks->Fail({"cluster.max_workers", "cluster.workers"},
                 "a run must let in those that it begins with; 0: no limit");
  }
  if (cluster.portions() == "measured" && config.train().micro_batch() == 0) {
    checks->Fail({"cluster.portions", "train.micro_batch"},
                 "a fast worker's larger portion must not need more memory: give a micro-batch");
  }
  if (cluster.portions() == "measured" && config.train().worker_batch() > 0) {
    checks->Fail({"cluster.portions", "train.worker_batch"},
                 "with worker_batch all portions are the same");
  }
}

void CheckPlan(const RunConfig& config, Checks* checks) {
  const RunConfig::Sdp& sdp = config.sdp();
  const int64_t workers = config.cluster().workers();
  std::vector<std::string> given;
  if (sdp.has_coverage()) given.push_back("sdp.coverage");
  if (sdp.has_holders()) given.push_back("sdp.holders");
  if (sdp.depth_size() > 0) given.push_back("sdp.depth");
  if (given.size() > 1) {
    checks->Fail(given, "give one of these");
    return;
  }
  if (sdp.has_holders() && sdp.holders() > workers) {
    checks->Fail({"sdp.holders", "cluster.workers"},
                 "a unit cannot have more holders than there are workers");
  }
  if (sdp.has_coverage() && sdp.coverage() == 0) {
    CheckAuto(config, checks);
  } else if (BelowOne(Least(sdp), workers)) {
    if (sdp.coverage_by_size() > 0) given.push_back("sdp.coverage_by");
    given.push_back("cluster.workers");
    checks->Fail(given, BelowOneHolder(workers));
  }
  if (sdp.masking() == "backward") CheckBackward(sdp, checks);
  CheckPhases(config, checks);
}

void CheckSpikes(const RunConfig& config, Checks* checks) {
  if (config.train().spike_factor() <= 1) {
    checks->Fail({"train.spike_factor"}, "must be 0 or above 1: what is usual is no spike");
  }
  if (config.checkpoint().every() == 0 && config.checkpoint().every_minutes() == 0) {
    checks->Fail({"train.spike_factor", "checkpoint.every"},
                 "a spike sends the run back to its last checkpoint: write some");
  }
  if (!config.data().shuffle()) {
    checks->Fail({"train.spike_factor", "data.shuffle"},
                 "after a spike the samples come in a new order: shuffle them");
  }
}

void CheckTraining(const RunConfig& config, Checks* checks) {
  const RunConfig::Train& train = config.train();
  const auto steps = static_cast<double>(train.steps());
  const auto warmup = static_cast<double>(train.warmup_steps());
  if (warmup > steps) {
    checks->Fail({"train.warmup_steps", "train.steps"},
                 "the warm-up must end before training does");
  } else if (train.schedule() == "wsd" && warmup + train.decay_fraction() * steps > steps) {
    checks->Fail({"train.warmup_steps", "train.decay_fraction", "train.steps"},
                 "the warm-up must end before the last decay_fraction of the steps begins");
  }
  if (train.nesterov() && train.optimizer() != "sgd") {
    checks->Fail({"train.nesterov", "train.optimizer"}, "only sgd has it");
  } else if (train.nesterov() && train.momentum() == 0) {
    checks->Fail({"train.nesterov", "train.momentum"}, "it needs a momentum above 0");
  }
  if (train.spike_factor() > 0) CheckSpikes(config, checks);
  if (train.on_nonfinite() == "skip" && train.clip_norm() == 0) {
    checks->Fail({"train.on_nonfinite", "train.clip_norm"},
                 "without clipping a part of the model is updated before the rest is known to be "
                 "finite: give a clip_norm, if only a large one");
  }
}

void CheckSecurity(const RunConfig::Security& security, Checks* checks) {
  const int given = !security.ca().empty() + !security.cert().empty() + !security.key().empty() +
                    !security.token().empty();
  if (given != 0 && given != 4) {
    checks->Fail({"security.ca", "security.cert", "security.key", "security.token"},
                 "give all four, or none for plaintext");
  } else if (given == 0 && !security.server_name().empty()) {
    checks->Fail({"security.server_name", "security.ca"},
                 "a name of certificates goes with all of security.ca, cert, key and token");
  }
}

void CheckGroups(const RunConfig& config, Checks* checks) {
  const RunConfig::Model& model = config.model();
  const int64_t groups = config.sdp().groups();
  if (model.arch() == "swin") {
    if (groups > model.dim() * model.mlp_ratio()) {
      checks->Fail({"sdp.groups", "model.dim", "model.mlp_ratio"},
                   "an MLP has no more parts than neurons");
    }
  } else if (model.arch() != "resnet") {
    if (groups > model.ffn_dim()) {
      checks->Fail({"sdp.groups", "model.ffn_dim"}, "an MLP has no more parts than neurons");
    }
  } else if (model.norm() == "group") {
    if (groups > model.norm_groups()) {
      checks->Fail({"sdp.groups", "model.norm_groups"},
                   "a part of a block is whole groups of the norm between its convolutions, which "
                   "would else mix parts");
    }
  } else if (absl::c_any_of(model.widths(), [&](int64_t width) { return groups > width; })) {
    checks->Fail({"sdp.groups", "model.widths"}, "a block has no more parts than channels");
  }
}

void CheckUnits(const RunConfig& config, Checks* checks) {
  const RunConfig::Sdp& sdp = config.sdp();
  const bool swin = config.model().arch() == "swin";
  if (TakesImages(config) && !swin && sdp.unit() != "sublayer") {
    checks->Fail({"sdp.unit", "model.arch"}, "only transformers have layers of several branches");
    return;
  }
  if (sdp.granularity() == "block") {
    const char* const others = "only granularity \"neuron\" cuts a branch into parts";
    if (sdp.has_attention()) checks->Fail({"sdp.attention", "sdp.granularity"}, others);
    if (sdp.has_groups()) checks->Fail({"sdp.groups", "sdp.granularity"}, others);
    return;
  }
  if (sdp.unit() != "sublayer") {
    checks->Fail({"sdp.unit", "sdp.granularity"}, "it says what a block is; neurons are parts");
  }
  CheckGroups(config, checks);
}

// Of Swin's blocks; the rest is less.
double SwinMacs(const RunConfig::Model& model) {
  const auto window = static_cast<double>(model.window());
  auto tokens = static_cast<double>(model.image_size()) * static_cast<double>(model.image_size());
  auto width = static_cast<double>(model.dim());
  double macs = 0;
  for (const int64_t depth : model.depths()) {
    const double products = (6 + 2 * static_cast<double>(model.mlp_ratio())) * width;
    macs += static_cast<double>(depth) * tokens * width * (products + 2 * window * window);
    tokens /= 4;
    width *= 2;
  }
  return macs + width * static_cast<double>(model.classes());
}

// Multiply-accumulates of a sample, or a little more.
double Macs(const RunConfig& config) {
  const RunConfig::Model& model = config.model();
  if (model.arch() == "swin") return SwinMacs(model);
  const auto dim = static_cast<double>(model.dim());
  const auto layers = static_cast<double>(model.layers());
  const auto ffn_dim = static_cast<double>(model.ffn_dim());
  if (TakesImages(config)) {
    const auto size = static_cast<double>(model.image_size());
    const double positions = size * size;
    double macs = 3 * positions * dim + layers * 2 * dim * ffn_dim;
    double width = 3;
    for (int i = 0; i < model.widths_size() && i < model.depths_size(); ++i) {
      const auto next = static_cast<double>(model.widths(i));
      macs += positions * (50 * width + 20 * static_cast<double>(model.depths(i)) * next) * next;
      width = next;
    }
    return macs + (dim + width) * static_cast<double>(model.classes());
  }
  const auto length = static_cast<double>(config.data().seq_len());
  const double layer = 4 * dim * dim + 3 * dim * ffn_dim;
  const double attention = length * (2 * dim + static_cast<double>(model.heads()));
  return length * (layers * (layer + attention) + 2 * dim * static_cast<double>(model.vocab()));
}

// Products that the planner, the cursor and the predictions compute in int64.
void CheckSizes(const RunConfig& config, Checks* checks) {
  std::vector<std::string> sizes = {"model.dim", "model.layers", "model.ffn_dim", "model.vocab",
                                    "data.seq_len"};
  std::vector<std::string> counts = {"train.steps", "train.global_batch", "data.seq_len"};
  auto terms = static_cast<double>(config.data().seq_len());
  if (TakesImages(config)) {
    const std::string& arch = config.model().arch();
    sizes = {"model.dim", "model.layers", "model.ffn_dim"};
    if (arch == "resnet") sizes = {"model.widths", "model.depths"};
    if (arch == "swin") sizes = {"model.dim", "model.depths", "model.mlp_ratio"};
    sizes.push_back("model.image_size");
    counts = {"train.steps", "train.global_batch"};
    terms = 1;
  }
  if (Macs(config) > kLargestCount) {
    checks->Fail(sizes, "the model is too large to count in 64 bits");
  }
  const double all = static_cast<double>(config.train().steps()) *
                     static_cast<double>(config.train().global_batch()) * terms;
  if (all > kLargestCount) {
    checks->Fail(counts, absl::StrCat("more ", TakesImages(config) ? "images" : "tokens",
                                      " than 64 bits count"));
  }
}

}  // namespace

std::string Shown(const LoadedConfig& loaded, const std::string& key) {
  const absl::optional<Value> value = GetField(loaded.config, key);
  const auto origin = loaded.origins.find(key);
  return absl::StrCat(
      key, " = ", value.has_value() ? TomlText(*value) : "(none)",
      origin == loaded.origins.end() ? "" : absl::StrCat(" (", origin->second, ")"));
}

std::vector<std::string> CheckTogether(const LoadedConfig& loaded) {
  Checks checks(loaded);
  const RunConfig& config = loaded.config;
  CheckModel(config, &checks);
  CheckPlan(config, &checks);
  CheckMembers(config, &checks);
  CheckUnits(config, &checks);
  CheckSizes(config, &checks);
  if (config.data().kind() == "text" && !config.data().tokenizer().empty()) {
    checks.Fail({"data.tokenizer", "data.kind"}, "text needs none: a token is a byte");
  }
  CheckTraining(config, &checks);
  CheckSecurity(config.security(), &checks);
  return checks.TakeErrors();
}

}  // namespace sdp::config

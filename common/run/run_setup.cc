#include "common/run/run_setup.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "common/base/status.h"
#include "common/config/config.h"
#include "common/run/model_spec.h"

namespace sdp {
namespace {

absl::StatusOr<CatalogOptions> CatalogOptionsFrom(const RunConfig& config, const ModelSpec& model) {
  const RunConfig::Sdp& sdp = config.sdp();
  CatalogOptions options = {.seq_len = config.data().seq_len(),
                            .recompute = config.train().recompute()};
  if (sdp.granularity() == "neuron") {
    SDP_ASSIGN_OR_RETURN(options.neurons, NeuronUnitsFrom(config.sdp()));
    SDP_RETURN_IF_ERROR(CheckNeuronUnits(model, *options.neurons));
    return options;
  }
  if (sdp.granularity() != "block") {
    return absl::InvalidArgumentError(absl::StrCat("sdp.granularity = \"", sdp.granularity(),
                                                   "\": allowed are \"block\", \"neuron\""));
  }
  SDP_ASSIGN_OR_RETURN(options.unit, TransformerUnitFrom(sdp));
  return options;
}

// Neuron granularity: every worker is to have a part of each branch. That takes N / p parts, which
// is how many their coverage leaves it one of, and with cyclic assignment N.
absl::Status CheckEnoughParts(const RunConfig& config, const ModelSpec& model,
                              const Catalog& catalog, absl::Span<const double> coverage) {
  const int64_t workers = config.cluster().workers();
  for (const StageSpec& stage : catalog.stages) {
    int64_t parts = 0;
    double shares = 0;  // of the workers, added up over the parts
    std::string kind;
    for (const UnitId id : stage.units) {
      if (catalog.unit(id).shared) continue;
      ++parts;
      shares += coverage[static_cast<size_t>(id.value())];
      kind = catalog.unit(id).kind;
    }
    if (parts == 0) continue;
    const PartsText says = PartsTextFor(model, stage.name, kind, parts);
    if (shares < 1 - kShareRounding) {
      return absl::InvalidArgumentError(absl::StrCat(
          says.number, ": at this coverage they reach only ", shares * static_cast<double>(workers),
          " of ", workers, " workers; raise the coverage or ", says.instead));
    }
    if (config.sdp().assignment() == "cyclic" && parts < workers) {
      return absl::InvalidArgumentError(
          absl::StrCat(says.number, ": cyclic assignment needs at least as many as workers, ",
                       workers, "; take another sdp.assignment or ", says.instead));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckEnoughParts(const RunConfig& config, const ModelSpec& model,
                              const Catalog& catalog, absl::Span<const double> coverage,
                              absl::Span<const CoveragePhase> phases) {
  SDP_RETURN_IF_ERROR(CheckEnoughParts(config, model, catalog, coverage));
  for (const CoveragePhase& phase : phases) {
    SDP_RETURN_IF_ERROR(Context(CheckEnoughParts(config, model, catalog, phase.coverage),
                                absl::StrCat("sdp.phases, phase from step ", phase.from)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<RunSetup> MakeRunSetup(const RunConfig& config) {
  if (config.sdp().has_coverage() && config.sdp().coverage() == 0) {
    return absl::InvalidArgumentError(
        "sdp.coverage = \"auto\": `sdp train` and `sdp plan` choose it; start processes by hand "
        "with the sdp.coverage, train.micro_batch and train.recompute that `sdp plan` prints");
  }
  SDP_ASSIGN_OR_RETURN(const ModelSpec model, ModelSpecFrom(config));
  SDP_ASSIGN_OR_RETURN(const CatalogOptions options, CatalogOptionsFrom(config, model));
  Catalog catalog = MakeCatalog(model, options);
  SDP_ASSIGN_OR_RETURN(std::vector<double> coverage, CoverageFrom(config, catalog));
  SDP_ASSIGN_OR_RETURN(std::vector<CoveragePhase> phases, PhasesFrom(config, catalog));
  if (config.sdp().granularity() == "neuron")
    SDP_RETURN_IF_ERROR(CheckEnoughParts(config, model, catalog, coverage, phases));
  Layout layout(catalog);
  SDP_ASSIGN_OR_RETURN(const WireType precision, PrecisionFrom(config.train()));
  SDP_ASSIGN_OR_RETURN(const Rescale rescale, RescaleFrom(config.sdp()));
  SDP_ASSIGN_OR_RETURN(const Masking masking, MaskingFrom(config.sdp()));
  return RunSetup{.config = config,
                  .config_hash = ConfigHash(config),
                  .model = model,
                  .terms_per_sample = TermsPerSample(model, options.seq_len),
                  .catalog = std::move(catalog),
                  .layout = std::move(layout),
                  .coverage = std::move(coverage),
                  .phases = std::move(phases),
                  .precision = precision,
                  .masking = masking,
                  .rescale = rescale};
}

absl::StatusOr<TransformerUnit> TransformerUnitFrom(const RunConfig::Sdp& sdp) {
  if (sdp.unit() == "sublayer") return TransformerUnit::kSublayer;
  if (sdp.unit() == "layer") return TransformerUnit::kLayer;
  return absl::InvalidArgumentError(
      absl::StrCat("sdp.unit = \"", sdp.unit(), "\": allowed are \"sublayer\", \"layer\""));
}

absl::StatusOr<NeuronUnits> NeuronUnitsFrom(const RunConfig::Sdp& sdp) {
  NeuronUnits units;
  units.groups = sdp.groups();
  if (sdp.attention() == "shared") {
    units.attention = NeuronUnits::Attention::kShared;
  } else if (sdp.has_attention() && sdp.attention() != "split") {
    return absl::InvalidArgumentError(absl::StrCat("sdp.attention = \"", sdp.attention(),
                                                   "\": allowed are \"split\", \"shared\""));
  }
  return units;
}

absl::StatusOr<Masking> MaskingFrom(const RunConfig::Sdp& sdp) {
  if (sdp.masking() == "forward") return Masking::kForward;
  if (sdp.masking() == "backward") return Masking::kBackward;
  return absl::InvalidArgumentError(
      absl::StrCat("sdp.masking = \"", sdp.masking(), "\": allowed are \"forward\", \"backward\""));
}

absl::StatusOr<Assignment> AssignmentFrom(const RunConfig::Sdp& sdp) {
  if (sdp.assignment() == "resolvable") return Assignment::kResolvable;
  if (sdp.assignment() == "cyclic") return Assignment::kCyclic;
  if (sdp.assignment() == "random") return Assignment::kRandom;
  return absl::InvalidArgumentError(
      absl::StrCat("sdp.assignment = \"", sdp.assignment(),
                   "\": allowed are \"resolvable\", \"cyclic\", \"random\""));
}

absl::StatusOr<Rescale> RescaleFrom(const RunConfig::Sdp& sdp) {
  if (sdp.masking() == "backward") return Rescale::kNone;
  if (sdp.rescale() == "eval") return Rescale::kEval;
  if (sdp.rescale() == "none") return Rescale::kNone;
  if (sdp.rescale() == "inverted") return Rescale::kInverted;
  if (sdp.rescale() == "sqrt") return Rescale::kSqrt;
  return absl::InvalidArgumentError(
      absl::StrCat("sdp.rescale = \"", sdp.rescale(),
                   "\": allowed are \"eval\", \"none\", \"inverted\", \"sqrt\""));
}

absl::StatusOr<WireType> PrecisionFrom(const RunConfig::Train& train) {
  if (train.precision() == "f32") return WireType::kF32;
  if (train.precision() == "bf16") return WireType::kBf16;
  return absl::InvalidArgumentError(
      absl::StrCat("train.precision = \"", train.precision(), "\": allowed are \"f32\", \"bf16\""));
}

ElementBytes ElementBytesFrom(WireType precision) {
  return {.weight = BytesPerElement(precision), .gradient = BytesPerElement(precision)};
}

absl::StatusOr<std::vector<double>> CoverageFrom(const RunConfig& config, const Catalog& catalog) {
  const RunConfig::Sdp& sdp = config.sdp();
  if (sdp.has_holders() && sdp.holders() < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("sdp.holders = ", sdp.holders(), ": must be at least 1"));
  }
  const CoverageChoice choice = {.coverage = sdp.coverage(),
                                 .holders = sdp.has_holders() ? static_cast<int>(sdp.holders()) : 0,
                                 .depth = {sdp.depth().begin(), sdp.depth().end()},
                                 .by_kind = {sdp.coverage_by().begin(), sdp.coverage_by().end()}};
  const absl::StatusOr<std::vector<double>> coverage =
      ResolveCoverage(catalog, choice, static_cast<int>(config.cluster().workers()));
  if (coverage.ok()) return coverage;
  return Context(coverage.status(), "[sdp] with cluster.workers");
}

absl::StatusOr<std::vector<CoveragePhase>> PhasesFrom(const RunConfig& config,
                                                      const Catalog& catalog) {
  std::vector<CoveragePhase> phases;
  for (const RunConfig::Sdp::Phase& phase : config.sdp().phases()) {
    const CoverageChoice choice = {
        .coverage = phase.coverage(),
        .depth = {phase.depth().begin(), phase.depth().end()},
        .by_kind = {phase.coverage_by().begin(), phase.coverage_by().end()}};
    absl::StatusOr<std::vector<double>> coverage =
        ResolveCoverage(catalog, choice, static_cast<int>(config.cluster().workers()));
    if (!coverage.ok()) {
      return Context(coverage.status(), absl::StrCat("sdp.phases, phase from step ", phase.from()));
    }
    phases.push_back({phase.from(), *std::move(coverage)});
  }
  return phases;
}

absl::StatusOr<std::vector<Rank>> RanksFrom(const RunConfig& config) {
  int64_t memory = 0;
  if (!config.worker().memory().empty()) {
    const absl::StatusOr<int64_t> bytes = ParseBytes(config.worker().memory());
    if (!bytes.ok()) return Context(bytes.status(), "worker.memory");
    memory = *bytes;
  }
  std::vector<Rank> ranks;
  for (int64_t i = 0; i < config.cluster().workers(); ++i) {
    ranks.push_back({.name = absl::StrCat("worker-", i), .memory_bytes = memory});
  }
  return ranks;
}

std::string CheckpointsPath(const RunConfig& config) {
  const std::string& given = config.checkpoint().dir();
  return given.empty() ? absl::StrCat(config.run().dir(), "/checkpoints") : given;
}

MemoryModel MemoryModelFrom(const RunSetup& setup) {
  const RunConfig& config = setup.config;
  MemoryModel model;
  if (config.worker().device() == "cuda") model.worker_place = MemoryPlace::kGpu;
  const Computer computer = {model.worker_place,
                             std::max(1, static_cast<int>(config.worker().threads()))};
  const int64_t element = BytesPerElement(setup.precision);
  model.sizes = {
      .weight = element, .gradient = element, .activation = element, .fragment = element};
  ModelMemory memory = MemoryOf(setup.model, config.data().seq_len(), model.sizes, computer);
  model.stages = std::move(memory.stages);
  model.table_bytes = memory.table_bytes;
  if (computer.place == MemoryPlace::kGpu) model.table_bytes += kCublasWorkspaceBytes;
  model.input_bytes = memory.input_bytes;
  model.target_bytes = memory.target_bytes;
  model.masking = setup.masking;
  model.global_batch = config.train().global_batch();
  model.worker_batch = config.train().worker_batch();
  model.micro_batch = config.train().micro_batch();
  model.evaluates = config.data().validation_size() > 0;
  // A size that cannot be read was refused when the configuration was.
  const int64_t worker_memory =
      config.worker().memory().empty() ? 0 : ParseBytes(config.worker().memory()).value_or(0);
  model.evaluation = EvaluationSizesFor(setup.catalog, setup.terms_per_sample, model.micro_batch,
                                        worker_memory, model.sizes.activation);
  if (const int64_t samples = config.train().eval_samples(); samples > 0) {
    const int64_t workers = config.cluster().workers();
    EvaluationSizes& sizes = model.evaluation;
    const int64_t part = (samples + workers - 1) / workers;  // of one worker
    sizes.micro = std::min(sizes.micro, part);
    sizes.chunk = std::min(sizes.chunk, (part + sizes.micro - 1) / sizes.micro * sizes.micro);
  }
  model.layout = &setup.layout;
  model.shards = static_cast<int>(config.cluster().shards());
  model.optimizer_moments = OptimizerMomentsFrom(config.train());
  model.diagnoses = config.diagnostics().every() > 0;
  return model;
}

int64_t OptimizerMomentsFrom(const RunConfig::Train& train) {
  if (train.optimizer() == "adamw") return 2;
  return train.momentum() > 0 ? 1 : 0;
}

int64_t RotationAt(const RunConfig::Sdp& sdp, Step step) {
  return sdp.rotate_every() > 0 ? step / sdp.rotate_every() : 0;
}

absl::StatusOr<PlanInput> PlanInputFrom(const RunSetup& setup, std::vector<Rank> ranks,
                                        int64_t rotation, int phase) {
  PlanInput input;
  input.catalog = &setup.catalog;
  input.coverage = setup.coverage;
  if (phase > 0) {
    input.coverage = setup.phases[static_cast<size_t>(phase) - 1].coverage;
    input.reference = setup.coverage;
  }
  input.ranks = std::move(ranks);
  SDP_ASSIGN_OR_RETURN(input.assignment, AssignmentFrom(setup.config.sdp()));
  input.seed = static_cast<uint64_t>(setup.config.train().seed());
  input.rotation = rotation;
  return input;
}

}  // namespace sdp

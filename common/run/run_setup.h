#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/dtype.h"
#include "common/base/ids.h"
#include "common/model/architectures.h"
#include "common/model/catalog.h"
#include "common/model/layout.h"
#include "common/model/masking.h"
#include "common/plan/coverage.h"
#include "common/plan/memory.h"
#include "common/plan/plan.h"
#include "common/plan/report.h"
#include "common/plan/rescale.h"
#include "proto/config.pb.h"

// What a RunConfig means, in the types of the code: every process of a run derives the same from
// the same config. Pure functions; nothing here opens a file of data.
//
// Errors: InvalidArgument for a value that names nothing known or is impossible. LoadConfig already
// refuses most of them; the message names the key.
namespace sdp {

struct RunSetup {
  RunConfig config;
  std::string config_hash;  // common/config: what all processes of a run must agree on
  ModelSpec model;
  int64_t terms_per_sample;  // loss terms
  Catalog catalog;
  Layout layout;
  std::vector<double> coverage;       // [units] c_j
  std::vector<CoveragePhase> phases;  // of sdp.phases
  WireType precision;                 // of weights and gradients on workers and on the wire
  Masking masking;
  Rescale rescale;
};

absl::StatusOr<RunSetup> MakeRunSetup(const RunConfig& config);

absl::StatusOr<TransformerUnit> TransformerUnitFrom(const RunConfig::Sdp& sdp);
// Whether the model can be cut so: CheckNeuronUnits.
absl::StatusOr<NeuronUnits> NeuronUnitsFrom(const RunConfig::Sdp& sdp);
absl::StatusOr<Masking> MaskingFrom(const RunConfig::Sdp& sdp);
absl::StatusOr<Assignment> AssignmentFrom(const RunConfig::Sdp& sdp);
// Backward masking: kNone, since every worker trains the full model.
absl::StatusOr<Rescale> RescaleFrom(const RunConfig::Sdp& sdp);
absl::StatusOr<WireType> PrecisionFrom(const RunConfig::Train& train);
// What `precision` means for a plan's bytes.
ElementBytes ElementBytesFrom(WireType precision);

// c_j of every unit, from `coverage`, `holders` / cluster.workers, `depth` and `coverage_by`
// (common/plan/coverage.h). Resolved once per run, at its start.
absl::StatusOr<std::vector<double>> CoverageFrom(const RunConfig& config, const Catalog& catalog);

// The phases of sdp.phases: a function of the configuration alone, whatever the workers.
absl::StatusOr<std::vector<CoveragePhase>> PhasesFrom(const RunConfig& config,
                                                      const Catalog& catalog);

// worker-0 .. worker-(N-1), the names that `sdp train` gives, each with worker.memory.
absl::StatusOr<std::vector<Rank>> RanksFrom(const RunConfig& config);

// The folder of the run's checkpoints: checkpoint.dir, or one in the run folder.
std::string CheckpointsPath(const RunConfig& config);

// f32 vectors of optimizer state per parameter: AdamW 2, SGD with momentum 1, without it 0.
int64_t OptimizerMomentsFrom(const RunConfig::Train& train);

// The redraw that step `step` trains with; 0 throughout if the run does not rotate.
int64_t RotationAt(const RunConfig::Sdp& sdp, Step step);

// What memory a plan of this run takes. Points to the setup: it must outlive the model. With
// worker.threads = 0 as for one thread.
MemoryModel MemoryModelFrom(const RunSetup& setup);

// The plan of one step is that of its phase and rotation (PhaseAt, RotationAt). The input points to
// the setup's catalog: `setup` must outlive it.
absl::StatusOr<PlanInput> PlanInputFrom(const RunSetup& setup, std::vector<Rank> ranks,
                                        int64_t rotation, int phase = 0);

}  // namespace sdp

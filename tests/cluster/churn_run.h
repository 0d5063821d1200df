#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "common/data/sample_order.h"
#include "common/model/layout.h"
#include "tests/cluster/sim_cluster.h"

namespace sdp {

// What a run is of, and what happens to it.
struct ChurnCase {
  int workers = 4, shards = 2;
  int64_t steps = 12, global_batch = 8, eval_every = 3, rotate_every = 0, checkpoint_every = 0;
  int64_t diagnostics_every = 2;
  int min_workers = 1;
  int64_t snapshot_bytes = 0;
  int64_t fragment_elements = 50;
  double clip_norm = 0;
  std::optional<int64_t> bad_sample = std::nullopt;  // steps that have it are skipped
  Step spike_at = 0;
  int spikes = 0;  // of that step's loss: in so many orders of the samples, one after the other
  Masking masking = Masking::kForward;
  uint64_t schedule = 0;
  std::vector<SimCluster::Change> changes = {};
  SimDisk* disk = nullptr;  // null: one of its own
  GenerationStart start = {};
  int64_t max_events = 0;  // everything is killed after so many; 0: never
};

// A run in a simulated cluster of a model whose gradients have a formula, and what is to be true of
// it whatever happens to its processes: it ends, every version is made by exactly the contributions
// that were accepted, nothing counts twice, no sample is lost, and the audit of its records says
// the same.
class ChurnRun {
 public:
  static constexpr int64_t kSamples = 100;
  static constexpr uint64_t kSeed = 3;

  explicit ChurnRun(const ChurnCase& c);

  const absl::Status& status() const { return status_; }
  const SimCluster& cluster() const { return *cluster_; }
  const Layout& layout() const { return layout_; }

  // Bit by bit.
  bool HasValuesOf(const ChurnRun& other) const;
  // Steps that were done again.
  int64_t Undone() const;
  // Diagnosed steps in which a member was excluded after part of its dense gradient was accepted.
  int HalfDense() const;

  void Check() const;

 private:
  // What stands first in the step, as the samples are ordered before each spike.
  std::vector<int64_t> SpikeSamples() const;
  // Whether all of what the worker owed to the step was accepted.
  bool Contributed(Step step, Incarnation worker, const WorkerBinding& binding) const;

  // Every position below the last one is part of a whole contribution, but for what came back from
  // the last steps, after which there was none to give it to. Without losses: of exactly one.
  void CheckSamples() const;

  // The run's own records prove it too.
  void CheckRecords() const;

  // The method with the contributions that were accepted, in double: SGD with momentum on the mean
  // over their samples. f32 sums of at most 8 values near 1 and 12 steps of updates of 0.01 keep
  // within 1e-5.
  void CheckValues() const;

  // In a contribution of which anything was accepted.
  bool HasBadSample(Step step, const SampleOrder& order) const;

  // Cosine and ratio of each block's mean gradient to the dense gradient, of the contributions to
  // either that were accepted; f32 sums of some 8 numbers near 1.
  void CheckDense(Step step, const std::vector<std::vector<double>>& means,
                  const std::vector<std::vector<double>>& values, const SampleOrder& order) const;

  // Over the samples of all members whose contribution was accepted; empty: nobody's.
  std::vector<double> DenseGradient(Step step, FragmentId id,
                                    const std::vector<std::vector<double>>& values,
                                    const SampleOrder& order) const;

  // Empty: nobody had samples.
  std::vector<double> MeanGradient(Step step, FragmentId id,
                                   const std::vector<std::vector<double>>& values,
                                   const SampleOrder& order) const;

  double ReadOnlyMean(const std::set<UnitId>& held,
                      const std::vector<std::vector<double>>& values) const;

  const ChurnCase case_;
  const Catalog catalog_;
  const Layout layout_;
  std::vector<double> factors_;  // [units] of the full model
  std::unique_ptr<SimCluster> cluster_;
  absl::Status status_;
};

}  // namespace sdp

// A cluster whose workers come and go and whose shards are lost, over a simulated network and
// clock: whatever happens to them, the run ends, every version is made by exactly the contributions
// that were accepted, nothing counts twice, no sample is lost, and the audit of the records says
// the same.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "common/base/random.h"
#include "common/data/sample_order.h"
#include "common/model/initial_values.h"
#include "common/model/llama.h"
#include "common/plan/coverage.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/base/sanitized.h"
#include "tests/cluster/fake_model.h"
#include "tests/cluster/sim_audit.h"
#include "tests/cluster/sim_cluster.h"

namespace sdp {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using What = SimCluster::Change::What;

constexpr int64_t kSamples = 100;
constexpr uint64_t kSeed = 3;
constexpr double kLr = 0.01, kMomentum = 0.9;

struct Case {
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

class ChurnRun {
 public:
  explicit ChurnRun(const Case& c)
      : case_(c),
        catalog_(LlamaCatalog(
            {.dim = 8, .layers = 4, .heads = 2, .kv_heads = 1, .ffn_dim = 12, .vocab = 16},
            TransformerUnit::kSublayer, 4)),
        layout_(catalog_, c.fragment_elements) {
    SimCluster::Options options;
    options.run.catalog = &catalog_;
    options.run.layout = &layout_;
    options.run.config_hash = "test";
    options.run.shards = c.shards;
    options.run.workers = c.workers;
    options.run.min_workers = c.min_workers;
    options.run.diagnostics_every = c.diagnostics_every;
    options.run.coverage = *ResolveCoverage(catalog_, {.coverage = 0.5}, c.workers);
    if (c.masking == Masking::kBackward) options.run.rescale = Rescale::kNone;
    options.run.steps = c.steps;
    options.run.global_batch = c.global_batch;
    options.run.rotate_every = c.rotate_every;
    options.run.eval_every = c.eval_every;
    options.run.checkpoint_every = c.checkpoint_every;
    options.run.validation = c.eval_every > 0;
    options.run.clip_norm = c.clip_norm;
    if (c.spikes > 0) options.run.spike_factor = 3;
    options.run.seed = kSeed;
    options.run.lease = absl::Milliseconds(300);
    options.run.min_step_timeout = absl::Seconds(10);
    options.optimizer.kind = OptimizerOptions::Kind::kSgd;
    options.optimizer.lr = kLr;
    options.optimizer.momentum = kMomentum;
    options.optimizer.weight_decay = 0;
    options.optimizer.steps = c.steps;
    factors_ = options.run.coverage;
    if (c.masking == Masking::kBackward) factors_.assign(factors_.size(), 1);
    options.seed = kSeed;
    options.data = {kSamples, 1, 10, 2};
    options.schedule_seed = c.schedule;
    options.masking = c.masking;
    options.snapshot_bytes = c.snapshot_bytes;
    options.skip_not_finite = c.bad_sample.has_value();
    options.changes = c.changes;
    options.disk = c.disk;
    options.run.start = c.start;
    options.max_events = c.max_events;
    options.limit = absl::Minutes(10);
    cluster_ = std::make_unique<SimCluster>(options, [this](int) {
      auto model = std::make_unique<FakeModel>(&layout_, WireType::kF32, case_.bad_sample);
      model->AddSpikes(case_.spike_at, SpikeSamples());
      return model;
    });
    status_ = cluster_->Run();
  }

  const absl::Status& status() const { return status_; }
  const SimCluster& cluster() const { return *cluster_; }
  const Layout& layout() const { return layout_; }

  // Bit by bit.
  bool HasValuesOf(const ChurnRun& other) const {
    if (!status_.ok() || !other.status_.ok()) return false;
    for (int f = 0; f < layout_.fragments(); ++f) {
      const auto ours = cluster_->value(FragmentId(f)).span();
      const auto theirs = other.cluster_->value(FragmentId(f)).span();
      if (std::memcmp(ours.data(), theirs.data(), ours.size() * sizeof(float)) != 0) return false;
    }
    return true;
  }
  // Steps that were done again.
  int64_t Undone() const { return AuditOf(cluster_->disk()).undone; }
  // Diagnosed steps in which a member was excluded after part of its dense gradient was accepted.
  int HalfDense() const {
    std::map<std::pair<Step, Incarnation>, int> accepted;
    for (const auto& [key, workers] : cluster_->dense_contributions()) {
      for (const Incarnation worker : workers) ++accepted[{key.first, worker}];
    }
    return static_cast<int>(std::count_if(accepted.begin(), accepted.end(), [&](const auto& one) {
      return one.second < layout_.fragments();
    }));
  }

  void Check() const {
    ASSERT_EQ(status_, absl::OkStatus());
    EXPECT_EQ(cluster_->version_jumps(), 0);
    ASSERT_EQ(cluster_->metrics().size(), static_cast<size_t>(case_.steps) + 1);
    for (size_t step = 0; step < cluster_->metrics().size(); ++step)
      EXPECT_EQ(cluster_->metrics()[step].step, static_cast<Step>(step));
    CheckSamples();
    CheckValues();
    CheckRecords();
  }

 private:
  // What stands first in the step, as the samples are ordered before each spike.
  std::vector<int64_t> SpikeSamples() const {
    std::vector<int64_t> samples, reshuffles;
    for (int spike = 0; spike < case_.spikes; ++spike) {
      const SampleOrder order(kSeed, kSamples, true, reshuffles);
      samples.push_back(order.Sample(case_.spike_at * case_.global_batch));
      reshuffles.push_back(case_.spike_at / case_.checkpoint_every * case_.checkpoint_every *
                           case_.global_batch);
    }
    return samples;
  }
  // Whether all of what the worker owed to the step was accepted.
  bool Contributed(Step step, Incarnation worker, const WorkerBinding& binding) const {
    for (const UnitFactor& unit : *binding.units) {
      for (const FragmentId id : layout_.block(unit.unit)) {
        const auto found = cluster_->contributions().find({step, id});
        if (found == cluster_->contributions().end() || !found->second.contains(worker))
          return false;
      }
    }
    return true;
  }

  // Every position below the last one is part of a whole contribution, but for what came back from
  // the last steps, after which there was none to give it to. Without losses: of exactly one.
  void CheckSamples() const {
    std::map<int64_t, int> used;
    int64_t end = 0, late = 0;
    for (const auto& [key, binding] : cluster_->bindings()) {
      const auto& [step, worker] = key;
      if (binding.closing) continue;
      const bool whole = Contributed(step, worker, binding);
      for (const PositionRange& range : binding.portion) {
        for (int64_t p = range.first; p < range.first + range.count; ++p) used[p] += whole ? 1 : 0;
        end = std::max(end, range.first + range.count);
      }
      if (!whole && step >= case_.steps - 3) late += binding.samples();
    }
    int64_t missing = 0;
    for (int64_t p = 0; p < end; ++p) {
      if (used[p] == 0) ++missing;
      if (case_.changes.empty()) {
        EXPECT_EQ(used[p], 1) << "position " << p;
      }
    }
    EXPECT_LE(missing, late + 2 * case_.global_batch);
    EXPECT_LE(end, case_.steps * case_.global_batch);
  }

  // The run's own records prove it too.
  void CheckRecords() const {
    const audit::Report report = AuditOf(cluster_->disk());
    EXPECT_EQ(report.steps, case_.steps);
    EXPECT_EQ(report.open + report.lost + report.doubled, 0);
    if (cluster_->times_back() == 0) {
      EXPECT_EQ(report.undone, 0);
    }
    EXPECT_EQ(report.used_once + report.used_again + report.waiting, report.dealt);
    if (case_.changes.empty()) {
      EXPECT_EQ(report.used_once, case_.steps * case_.global_batch);
    }
  }

  // The method with the contributions that were accepted, in double: SGD with momentum on the mean
  // over their samples. f32 sums of at most 8 values near 1 and 12 steps of updates of 0.01 keep
  // within 1e-5.
  void CheckValues() const {
    // Steps that were done again are before no reshuffle of theirs.
    const SampleOrder order(kSeed, kSamples, true, cluster_->reshuffles());
    std::vector<std::vector<double>> values, moment;
    for (int f = 0; f < layout_.fragments(); ++f) {
      FloatBuffer start(layout_.fragment(FragmentId(f)).size);
      FillInitialValues(catalog_, layout_, FragmentId(f), kSeed, start.span());
      values.emplace_back(start.span().begin(), start.span().end());
      moment.emplace_back(values.back().size());
    }
    for (Step t = 0; t < case_.steps; ++t) {
      const std::vector<std::vector<double>> before = values;
      std::vector<std::vector<double>> means(values.size());
      double squares = 0;
      for (size_t f = 0; f < values.size(); ++f) {
        means[f] = MeanGradient(t, FragmentId(static_cast<int>(f)), before, order);
        for (const double g : means[f]) squares += g * g;
      }
      const bool skipped = HasBadSample(t, order);
      EXPECT_EQ(!cluster_->metrics()[static_cast<size_t>(t)].skipped.empty(), skipped);
      if (skipped) continue;
      CheckDense(t, means, before, order);
      const double scale =
          case_.clip_norm > 0 ? std::min(1.0, case_.clip_norm / (std::sqrt(squares) + 1e-6)) : 1;
      for (size_t f = 0; f < values.size(); ++f) {
        for (size_t i = 0; i < means[f].size(); ++i) {
          moment[f][i] = kMomentum * moment[f][i] + means[f][i] * scale;
          values[f][i] -= kLr * moment[f][i];
        }
      }
    }
    for (int f = 0; f < layout_.fragments(); ++f) {
      const FloatBuffer& value = cluster_->value(FragmentId(f));
      for (int64_t i = 0; i < value.size(); ++i) {
        ASSERT_NEAR(value.data()[i], values[static_cast<size_t>(f)][static_cast<size_t>(i)], 1e-5)
            << "fragment " << f << ", element " << i;
      }
    }
  }

  // In a contribution of which anything was accepted.
  bool HasBadSample(Step step, const SampleOrder& order) const {
    if (!case_.bad_sample.has_value()) return false;
    for (int f = 0; f < layout_.fragments(); ++f) {
      const auto found = cluster_->contributions().find({step, FragmentId(f)});
      if (found == cluster_->contributions().end()) continue;
      for (const Incarnation worker : found->second) {
        for (const PositionRange& range : cluster_->bindings().at({step, worker}).portion) {
          for (int64_t p = range.first; p < range.first + range.count; ++p)
            if (order.Sample(p) == *case_.bad_sample) return true;
        }
      }
    }
    return false;
  }

  // Cosine and ratio of each block's mean gradient to the dense gradient, of the contributions to
  // either that were accepted; f32 sums of some 8 numbers near 1.
  void CheckDense(Step step, const std::vector<std::vector<double>>& means,
                  const std::vector<std::vector<double>>& values, const SampleOrder& order) const {
    const std::vector<BlockDiagnostics>& blocks =
        cluster_->metrics()[static_cast<size_t>(step)].blocks;
    // What was not compared when a shard was lost is not any more.
    const bool lost = cluster_->times_back() > 0;
    if (lost && blocks.empty()) return;
    ASSERT_EQ(!blocks.empty(), case_.diagnostics_every > 0 && step % case_.diagnostics_every == 0);
    for (size_t unit = 0; unit < blocks.size(); ++unit) {
      double mean_square = 0, dot = 0, square = 0;
      bool whole = true;
      for (const FragmentId id : layout_.block(UnitId(static_cast<int32_t>(unit)))) {
        const std::vector<double>& mean = means[static_cast<size_t>(id.value())];
        const std::vector<double> dense = DenseGradient(step, id, values, order);
        whole = whole && !mean.empty() && !dense.empty();
        for (size_t i = 0; whole && i < mean.size(); ++i) {
          mean_square += mean[i] * mean[i];
          dot += mean[i] * dense[i];
          square += dense[i] * dense[i];
        }
      }
      if (lost && !blocks[unit].dense_cosine.has_value()) continue;
      ASSERT_EQ(blocks[unit].dense_cosine.has_value(), whole) << "step " << step << " " << unit;
      if (!whole) continue;
      ASSERT_NEAR(*blocks[unit].dense_cosine, dot / std::sqrt(mean_square * square), 1e-5);
      ASSERT_NEAR(*blocks[unit].dense_ratio, std::sqrt(mean_square / square), 1e-4);
    }
  }

  // Over the samples of all members whose contribution was accepted; empty: nobody's.
  std::vector<double> DenseGradient(Step step, FragmentId id,
                                    const std::vector<std::vector<double>>& values,
                                    const SampleOrder& order) const {
    const auto found = cluster_->dense_contributions().find({step, id});
    if (found == cluster_->dense_contributions().end()) return {};
    const std::vector<double>& value = values[static_cast<size_t>(id.value())];
    const double factor = factors_[static_cast<size_t>(layout_.fragment(id).unit.value())];
    std::vector<double> sum(value.size());
    int64_t count = 0;
    for (const Incarnation worker : found->second) {
      for (const PositionRange& range : cluster_->bindings().at({step, worker}).portion) {
        count += range.count;
        for (int64_t p = range.first; p < range.first + range.count; ++p) {
          const int64_t sample = order.Sample(p);
          for (size_t i = 0; i < sum.size(); ++i) {
            sum[i] += factor * (value[i] - FakeModel::Target(sample, id, static_cast<int64_t>(i)));
          }
        }
      }
    }
    if (count == 0) return {};
    for (double& g : sum) g /= static_cast<double>(count);
    return sum;
  }

  // Empty: nobody had samples.
  std::vector<double> MeanGradient(Step step, FragmentId id,
                                   const std::vector<std::vector<double>>& values,
                                   const SampleOrder& order) const {
    const auto found = cluster_->contributions().find({step, id});
    if (found == cluster_->contributions().end()) return {};
    const std::vector<double>& value = values[static_cast<size_t>(id.value())];
    std::vector<double> sum(value.size());
    int64_t count = 0;
    for (const Incarnation worker : found->second) {
      const WorkerBinding& binding = cluster_->bindings().at({step, worker});
      double factor = 0;
      std::set<UnitId> held;
      for (const UnitFactor& unit : *binding.units) {
        if (unit.unit == layout_.fragment(id).unit) factor = unit.factor;
        held.insert(unit.unit);
      }
      const double read_only = case_.masking == Masking::kBackward ? ReadOnlyMean(held, values) : 0;
      for (const PositionRange& range : binding.portion) {
        for (int64_t p = range.first; p < range.first + range.count; ++p) {
          const int64_t sample = order.Sample(p);
          for (size_t i = 0; i < sum.size(); ++i) {
            const double target = FakeModel::Target(sample, id, static_cast<int64_t>(i));
            sum[i] += factor * (value[i] - target) + read_only;
          }
          ++count;
        }
      }
    }
    if (count == 0) return {};
    for (double& g : sum) g /= static_cast<double>(count);
    return sum;
  }

  double ReadOnlyMean(const std::set<UnitId>& held,
                      const std::vector<std::vector<double>>& values) const {
    double sum = 0, count = 0;
    for (size_t f = 0; f < values.size(); ++f) {
      if (held.contains(layout_.fragment(FragmentId(static_cast<int>(f))).unit)) continue;
      for (const double value : values[f]) sum += value;
      count += static_cast<double>(values[f].size());
    }
    return count > 0 ? sum / count : 0;
  }

  const Case case_;
  const Catalog catalog_;
  const Layout layout_;
  std::vector<double> factors_;  // [units] of the full model
  std::unique_ptr<SimCluster> cluster_;
  absl::Status status_;
};

absl::Duration Ms(int64_t ms) { return absl::Milliseconds(ms); }

TEST(ChurnTest, NothingHappens_EverySampleIsUsedOnce) { ChurnRun(Case{}).Check(); }

TEST(ChurnTest, AJoiner_TakesPartFromAStepOn) {
  const ChurnRun run({.steps = 20, .changes = {{Ms(300), What::kStart, 4, {}}}});
  run.Check();
  EXPECT_EQ(run.cluster().metrics().front().workers, 4);
  EXPECT_EQ(run.cluster().metrics().back().workers, 5);
}

TEST(ChurnTest, ALostWorker_IsExcluded_AndItsSamplesAreDealtAgain) {
  const ChurnRun run({.steps = 20, .changes = {{Ms(300), What::kKill, 2, {}}}});
  run.Check();
  EXPECT_EQ(run.cluster().metrics().back().workers, 3);
  EXPECT_THAT(run.cluster().log(), Contains(HasSubstr("worker-2 (incarnation")));
}

TEST(ChurnTest, ALeaver_FinishesWhatIsBound_AndNothingIsLost) {
  Case c{.steps = 20, .changes = {{Ms(300), What::kLeave, 1, {}}}};
  const ChurnRun run(c);
  run.Check();
  EXPECT_EQ(run.cluster().metrics().back().workers, 3);
  // Each position is in one binding only: none came back.
  std::map<int64_t, int> bound;
  for (const auto& [key, binding] : run.cluster().bindings()) {
    for (const PositionRange& range : binding.portion) {
      for (int64_t p = range.first; p < range.first + range.count; ++p) ++bound[p];
    }
  }
  EXPECT_EQ(bound.size(), static_cast<size_t>(c.steps * c.global_batch));
  for (const auto& [position, times] : bound) EXPECT_EQ(times, 1) << position;
}

TEST(ChurnTest, AFrozenWorker_IsExcluded_AndComesBackAsAnotherIncarnation) {
  const ChurnRun run({.steps = 40, .changes = {{Ms(300), What::kFreeze, 0, Ms(900)}}});
  run.Check();
  EXPECT_EQ(run.cluster().metrics().back().workers, 4);
}

TEST(ChurnTest, ASecondProcessUnderAName_FencesTheFirst) {
  const ChurnRun run({.steps = 30, .changes = {{Ms(300), What::kStart, 3, {}}}});
  run.Check();
  EXPECT_THAT(run.cluster().log(), Contains(HasSubstr("another process has come under its name")));
}

TEST(ChurnTest, TooFewWorkers_PausesUntilOneComes) {
  const ChurnRun run({.steps = 20,
                      .min_workers = 4,
                      .changes = {{Ms(300), What::kKill, 0, {}}, {Ms(5000), What::kStart, 7, {}}}});
  run.Check();
  EXPECT_GT(run.cluster().metrics().back().run_time, absl::Seconds(4));
}

TEST(ChurnTest, EverybodyIsLost_NewOnesGoOn) {
  Case c{.steps = 20};
  for (int worker = 0; worker < 4; ++worker)
    c.changes.push_back({Ms(300), What::kKill, worker, {}});
  for (int worker = 4; worker < 7; ++worker)
    c.changes.push_back({Ms(4000), What::kStart, worker, {}});
  const ChurnRun run(c);
  run.Check();
  EXPECT_EQ(run.cluster().metrics().back().workers, 3);
}

Case RandomCase(uint64_t seed) {
  RandomStream random(seed, 0xC4);
  Case c;
  c.schedule = seed;
  c.workers = 2 + static_cast<int>(random.Below(4));
  c.shards = 1 + static_cast<int>(random.Below(3));
  c.steps = 8 + static_cast<int64_t>(random.Below(12));
  c.global_batch = 1 + static_cast<int64_t>(random.Below(12));
  c.eval_every = static_cast<int64_t>(random.Below(4));
  c.rotate_every = static_cast<int64_t>(random.Below(3));
  c.checkpoint_every = static_cast<int64_t>(random.Below(4));
  c.diagnostics_every = static_cast<int64_t>(seed % 4);
  c.clip_norm = random.Below(2) == 0 ? 0 : 0.5;
  c.masking = random.Below(3) == 0 ? Masking::kBackward : Masking::kForward;
  c.min_workers = 1 + static_cast<int>(random.Below(2));
  c.snapshot_bytes = std::vector<int64_t>{0, 500, 1 << 20}[random.Below(3)];
  // Fewer fragments are fewer messages: more schedules in the same time.
  c.fragment_elements = std::vector<int64_t>{50, 120, 300, 1000}[seed / 4 % 4];
  const auto changes = static_cast<int>(random.Below(8));
  for (int i = 0; i < changes; ++i) {
    SimCluster::Change change;
    change.at = Ms(static_cast<int64_t>(random.Below(3000)));
    change.what = static_cast<What>(random.Below(9));
    change.number = static_cast<int>(random.Below(static_cast<uint64_t>(c.workers) + 2));
    change.duration = Ms(static_cast<int64_t>(random.Below(1500)));
    c.changes.push_back(change);
  }
  if (c.clip_norm > 0 && random.Below(2) == 0)
    c.bad_sample = static_cast<int64_t>(random.Below(kSamples));
  for (int worker = 0; worker < 2; ++worker)  // in the end there are enough
    c.changes.push_back({absl::Seconds(6), What::kStart, 20 + worker, {}});
  return c;
}

TEST(ChurnTest, ALostShard_TheRunGoesBackToItsNewestCheckpoint_AndEndsWithTheSameBits) {
  Case c{.steps = 20, .checkpoint_every = 4};
  const ChurnRun undisturbed(c);
  c.changes = {{Ms(500), What::kKillShard, 1, Ms(100)}};
  const ChurnRun run(c);
  run.Check();
  EXPECT_EQ(run.cluster().times_back(), 1);
  EXPECT_TRUE(run.HasValuesOf(undisturbed));
}

// The steps that have the sample change nothing, and the others what they do without it.
TEST(ChurnTest, ABadSample_ItsStepsAreSkipped) {
  for (const Masking masking : {Masking::kForward, Masking::kBackward}) {
    const ChurnRun run({.steps = 30, .clip_norm = 0.5, .bad_sample = 7, .masking = masking});
    run.Check();
    const auto skipped = absl::c_count_if(
        run.cluster().metrics(), [](const StepMetrics& step) { return !step.skipped.empty(); });
    std::set<int64_t> with_it;
    for (int64_t p = 0; p < 30 * 8; ++p)
      if (SampleOrder(kSeed, kSamples, true).Sample(p) == 7) with_it.insert(p / 8);
    EXPECT_EQ(skipped, static_cast<int64_t>(with_it.size()));
  }
}

// Nobody is named so. With a change there are heartbeats, by which members hear of a generation.
const SimCluster::Change kHeartbeats = {Ms(1), What::kKill, 99, {}};

// Back to the checkpoint before it, and on with other samples in each step.
TEST(ChurnTest, ASpikeOfTheLoss_GoesBack_AndTheSamplesComeInANewOrder) {
  Case c{.workers = 2, .steps = 60, .checkpoint_every = 10};
  const ChurnRun undisturbed(c);
  c.spike_at = 47;
  c.changes = {kHeartbeats};
  for (const int spikes : {1, 2}) {
    c.spikes = spikes;
    const ChurnRun run(c);
    run.Check();
    EXPECT_EQ(run.cluster().times_back(), spikes);
    EXPECT_THAT(run.cluster().reshuffles(), testing::Each(40 * c.global_batch));
    EXPECT_EQ(run.cluster().reshuffles().size(), static_cast<size_t>(spikes));
    EXPECT_FALSE(run.HasValuesOf(undisturbed));
  }
}

// The new order is the run's from then on: whoever is lost later, and as often as it is.
TEST(ChurnTest, ASpikeOfTheLoss_ThenLostServers_KeepsTheNewOrder) {
  Case c{.workers = 2, .steps = 60, .checkpoint_every = 10, .spike_at = 47, .spikes = 1};
  c.changes = {kHeartbeats};
  const ChurnRun undisturbed(c);
  for (int64_t at = 200; at < 5000; at += kSanitized ? 1500 : 500) {
    c.changes = {{Ms(at), What::kKillCoordinator, 0, Ms(20)},
                 {Ms(at + 300), What::kKillShard, 1, Ms(50)}};
    const ChurnRun run(c);
    run.Check();
    EXPECT_TRUE(run.HasValuesOf(undisturbed)) << at;
  }
}

TEST(ChurnTest, ABadSample_TheLossOfAnyServerChangesNoBit) {
  Case c{.steps = 20, .checkpoint_every = 4, .clip_norm = 0.5, .bad_sample = 7};
  const ChurnRun undisturbed(c);
  for (int64_t at = 100; at < 1000; at += kSanitized ? 300 : 50) {
    c.schedule = static_cast<uint64_t>(at);
    c.changes = {{Ms(at), What::kKillCoordinator, 0, Ms(20)},
                 {Ms(at + 400), What::kKillShard, 1, Ms(50)}};
    const ChurnRun run(c);
    run.Check();
    EXPECT_TRUE(run.HasValuesOf(undisturbed)) << at;
  }
}

TEST(ChurnTest, ALostShard_WithoutACheckpoint_BeginsAgain) {
  Case c{.steps = 10};
  const ChurnRun undisturbed(c);
  c.changes = {{Ms(300), What::kKillShard, 0, Ms(50)}};
  const ChurnRun run(c);
  run.Check();
  EXPECT_EQ(run.cluster().times_back(), 1);
  EXPECT_TRUE(run.HasValuesOf(undisturbed));
}

TEST(ChurnTest, AFrozenShard_IsLost_AndComesBackForTheNextGeneration) {
  const ChurnRun run(
      {.steps = 20, .checkpoint_every = 3, .changes = {{Ms(400), What::kFreezeShard, 0, Ms(900)}}});
  run.Check();
  EXPECT_EQ(run.cluster().times_back(), 1);
}

TEST(ChurnTest, ALostCoordinator_IsReplaced_AndNothingIsDoneTwice) {
  Case c{.steps = 20, .checkpoint_every = 4};
  const ChurnRun undisturbed(c);
  c.changes = {{Ms(400), What::kKillCoordinator, 0, Ms(100)},
               {Ms(900), What::kKillCoordinator, 0, Ms(300)}};
  const ChurnRun run(c);
  run.Check();
  EXPECT_EQ(run.cluster().restarts(), 2);
  EXPECT_EQ(run.cluster().times_back(), 0);
  EXPECT_TRUE(run.HasValuesOf(undisturbed));
}

// It may be lost at any moment: while members register, a step is bound, a checkpoint completed, at
// the end.
TEST(ChurnTest, ALostCoordinator_AtAnyMoment_ChangesNoBit) {
  Case c{.workers = 3, .steps = 10, .checkpoint_every = 3, .clip_norm = 0.5};
  const ChurnRun undisturbed(c);
  for (int64_t at = 0; at < (kSanitized ? 200 : 600); at += 3) {
    c.schedule = static_cast<uint64_t>(at);
    c.changes = {{Ms(at), What::kKillCoordinator, 0, Ms(20)}};
    const ChurnRun run(c);
    run.Check();
    EXPECT_EQ(run.cluster().times_back(), 0);
    ASSERT_TRUE(run.HasValuesOf(undisturbed)) << "lost after " << at << " ms";
    ASSERT_FALSE(HasFailure()) << "lost after " << at << " ms";
  }
}

// What it knew of a worker that is gone nobody can tell the next one.
TEST(ChurnTest, ALostCoordinator_JustAfterAnExclusion_TheRecordsAddUp) {
  Case c{.workers = 3, .steps = 15};
  for (int64_t at = 100; at < (kSanitized ? 200 : 500); at += 4) {
    c.schedule = static_cast<uint64_t>(at);
    c.changes = {{Ms(at), What::kStart, 1, {}}, {Ms(at + 20), What::kKillCoordinator, 0, Ms(20)}};
    ChurnRun(c).Check();
    ASSERT_FALSE(HasFailure()) << "after " << at << " ms";
  }
}

// Whatever is on them is lost: weights and who wants them, gradients, answers.
TEST(ChurnTest, StreamsBreak_AtAnyMoment_ChangesNoBit) {
  for (const Masking masking : {Masking::kForward, Masking::kBackward}) {
    Case c{.workers = 3, .steps = 10, .clip_norm = 0.5, .masking = masking};
    const ChurnRun undisturbed(c);
    for (int64_t at = 0; at < (kSanitized ? 100 : 600); at += 6) {
      c.schedule = static_cast<uint64_t>(at);
      c.changes.clear();
      for (int worker = 0; worker < 3; ++worker)
        c.changes.push_back({Ms(at + 7 * worker), What::kBreakStreams, worker, Ms(10)});
      const ChurnRun run(c);
      run.Check();
      ASSERT_TRUE(run.HasValuesOf(undisturbed)) << "broken after " << at << " ms";
      ASSERT_FALSE(HasFailure()) << "broken after " << at << " ms";
    }
  }
}

// No other checkpoint is written: all that was done is in the one that is taken for it.
TEST(ChurnTest, AShardThatLeaves_NoStepIsDoneAgain) {
  Case c{.steps = 20};
  const ChurnRun undisturbed(c);
  c.changes = {{Ms(500), What::kDrainShard, 1, Ms(100)}};
  const ChurnRun run(c);
  run.Check();
  EXPECT_EQ(run.cluster().times_back(), 1);
  EXPECT_EQ(run.Undone(), 0);
  EXPECT_TRUE(run.HasValuesOf(undisturbed));
  EXPECT_THAT(run.cluster().log(), Contains(HasSubstr("generation 1 is over: shard-1 has left")));
}

TEST(ChurnTest, ShardsThatLeaveTogether_GoWithOneCheckpoint) {
  Case c{.shards = 3, .steps = 20, .diagnostics_every = 0};
  const ChurnRun undisturbed(c);
  c.changes = {{Ms(500), What::kDrainShard, 0, Ms(100)}, {Ms(501), What::kDrainShard, 2, Ms(50)}};
  const ChurnRun run(c);
  run.Check();
  EXPECT_EQ(run.cluster().times_back(), 1);
  EXPECT_EQ(run.Undone(), 0);
  EXPECT_TRUE(run.HasValuesOf(undisturbed));
}

// While members register, before the first step, at the last one, while the run ends; and a
// coordinator that is lost meanwhile forgets nothing of it.
TEST(ChurnTest, AShardLeaves_AtAnyMoment_NoStepIsDoneAgain) {
  Case c{.workers = 3, .steps = 10, .clip_norm = 0.5};
  const ChurnRun undisturbed(c);
  for (const bool kill : {false, true}) {
    for (int64_t at = 0; at < (kSanitized ? 200 : 700); at += 20) {
      c.schedule = static_cast<uint64_t>(at);
      c.changes = {{Ms(at), What::kDrainShard, 1, Ms(20)}};
      if (kill) c.changes.push_back({Ms(at + at % 97), What::kKillCoordinator, 0, Ms(20)});
      const ChurnRun run(c);
      run.Check();
      EXPECT_EQ(run.Undone(), 0);
      // The coordinator may have begun to go back, and the next one does it.
      EXPECT_LE(run.cluster().times_back(), kill ? 2 : 1);
      ASSERT_TRUE(run.HasValuesOf(undisturbed)) << "leaves after " << at << " ms";
      ASSERT_FALSE(HasFailure()) << "leaves after " << at << " ms";
    }
  }
}

TEST(ChurnTest, AShardLeavesAPausedRun_ItGoesOnPaused) {
  const ChurnRun run({.steps = 20,
                      .min_workers = 4,
                      .changes = {{Ms(300), What::kKill, 0, {}},
                                  {Ms(1500), What::kDrainShard, 0, Ms(100)},
                                  {Ms(5000), What::kStart, 7, {}}}});
  run.Check();
  EXPECT_EQ(run.cluster().times_back(), 1);
  EXPECT_EQ(run.Undone(), 0);
}

TEST(ChurnTest, AShardLeaves_AndItsCheckpointCannotBeWritten_TheRunGoesFurtherBack) {
  Case c{.steps = 20};
  const ChurnRun undisturbed(c);
  SimDisk disk;
  for (Step step = 1; step < c.steps; ++step) disk.full.insert(step);
  c.disk = &disk;
  c.changes = {{Ms(700), What::kDrainShard, 1, Ms(100)}};
  const ChurnRun run(c);
  run.Check();
  EXPECT_EQ(run.cluster().times_back(), 1);
  EXPECT_GT(run.Undone(), 0);
  EXPECT_TRUE(run.HasValuesOf(undisturbed));
}

// The workers hear of the end of a generation before the next one is recorded: whoever comes after
// the coordinator is to know of it too.
TEST(ChurnTest, ALostShard_AndThenTheCoordinator_ChangesNoBit) {
  Case c{.workers = 3, .steps = 10, .checkpoint_every = 3, .clip_norm = 0.5};
  const ChurnRun undisturbed(c);
  for (int64_t at = 400; at < (kSanitized ? 500 : 700); at += 3) {
    c.schedule = static_cast<uint64_t>(at);
    c.changes = {{Ms(150), What::kKillShard, 1, Ms(100)},
                 {Ms(at), What::kKillCoordinator, 0, Ms(20)}};
    const ChurnRun run(c);
    run.Check();
    EXPECT_GE(run.cluster().times_back(), 1);
    ASSERT_TRUE(run.HasValuesOf(undisturbed)) << "the coordinator after " << at << " ms";
    ASSERT_FALSE(HasFailure()) << "the coordinator after " << at << " ms";
  }
}

// How many random schedules, and the first one's seed.
struct Seeds {
  uint64_t first = 0, count = 0;
};

// More of them: SDP_SCHEDULES=100000. A seed that fails is replayed with SDP_FIRST_SCHEDULE=SEED
// SDP_SCHEDULES=1.
Seeds RandomSeeds(uint64_t count) {
  const auto number = [](const char* name, uint64_t fallback) {
    const char* const given = std::getenv(name);
    return given == nullptr ? fallback : std::strtoull(given, nullptr, 10);
  };
  return {number("SDP_FIRST_SCHEDULE", 0), number("SDP_SCHEDULES", count)};
}

// Only servers and connections fail: the bits are those of the undisturbed run.
TEST(ChurnTest, RandomLossesOfServers_ChangeNoBit) {
  const uint64_t cases = kSanitized ? 10 : 50;
  int times_back = 0;
  for (uint64_t seed = 0; seed < cases; ++seed) {
    Case c = RandomCase(seed);
    c.changes.clear();
    const ChurnRun undisturbed(c);
    RandomStream random(seed, 0x5C);
    for (uint64_t i = 0; i <= random.Below(3); ++i) {
      c.changes.push_back(
          {Ms(static_cast<int64_t>(random.Below(1500))),
           std::vector<What>{What::kKillShard, What::kFreezeShard, What::kKillCoordinator,
                             What::kBreakStreams, What::kDrainShard}[random.Below(5)],
           static_cast<int>(random.Below(3)), Ms(static_cast<int64_t>(random.Below(1200)))});
    }
    const ChurnRun run(c);
    run.Check();
    times_back += run.cluster().times_back();
    ASSERT_TRUE(run.HasValuesOf(undisturbed)) << "seed " << seed;
    ASSERT_FALSE(HasFailure()) << "seed " << seed;
  }
  EXPECT_GT(times_back, static_cast<int>(cases) / 4);
}

TEST(ChurnTest, RandomChanges_EndAndAgreeWithTheMethod) {
  const auto [first, count] = RandomSeeds(kSanitized ? 40 : 5000);
  int half_dense = 0;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    const ChurnRun run(RandomCase(seed));
    run.Check();
    half_dense += run.HalfDense();
    if (HasFailure()) {
      for (const std::string& line : run.cluster().log()) std::cerr << line << "\n";
      FAIL() << "SDP_FIRST_SCHEDULE=" << seed << " SDP_SCHEDULES=1";
    }
  }
  if (count >= 40) {
    EXPECT_GT(half_dense, 0);
  }
}

// The audit's view of a run that is killed as a whole, again and again, while workers come and go.
TEST(ChurnTest, KilledAmidChangesAndResumed_TheRecordsAddUp) {
  const uint64_t cases = kSanitized ? 20 : 60;
  int64_t undone = 0, again = 0;
  for (uint64_t seed = 0; seed < cases; ++seed) {
    RandomStream random(seed, 0xC5);
    Case c = RandomCase(seed);
    c.checkpoint_every = 1 + static_cast<int64_t>(random.Below(3));
    SimDisk disk;
    c.disk = &disk;
    absl::Status end = absl::AbortedError("not begun");
    for (int64_t generation = 1; absl::IsAborted(end); ++generation) {
      c.schedule = seed * 100 + static_cast<uint64_t>(generation);
      c.start = disk.Newest(disk.NextGeneration());
      c.max_events = generation > 3 ? 0 : 1 + static_cast<int64_t>(random.Below(8000));
      end = ChurnRun(c).status();
    }
    ASSERT_EQ(end, absl::OkStatus()) << "seed " << seed;
    const audit::Report report = AuditOf(disk);
    EXPECT_EQ(report.steps, c.steps) << "seed " << seed;
    EXPECT_EQ(report.used_once + report.used_again + report.waiting, report.dealt);
    undone += report.undone;
    again += report.used_again;
    if (HasFailure()) FAIL() << "seed " << seed;
  }
  EXPECT_GT(undone, 0);
  EXPECT_GT(again, 0);
}

}  // namespace
}  // namespace sdp

// A whole cluster over a simulated network, store and clock: whatever order and however often
// messages come, the run ends and has the same bits, and those agree with a plain sequential
// computation of the method.
#include "tests/cluster/sim_cluster.h"

#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "common/base/random.h"
#include "common/data/sample_order.h"
#include "common/model/initial_values.h"
#include "common/model/llama.h"
#include "common/plan/coverage.h"
#include "gtest/gtest.h"
#include "tests/base/sanitized.h"
#include "tests/cluster/fake_model.h"
#include "tests/cluster/sim_audit.h"

namespace sdp {
namespace {

struct Case {
  int workers = 4, shards = 2;
  CoverageChoice coverage = {.coverage = 0.5};
  std::vector<std::pair<Step, CoverageChoice>> phases = {};
  int64_t steps = 6, global_batch = 8, rotate_every = 0, eval_every = 2;
  double clip_norm = 0;
  OptimizerOptions::Kind optimizer = OptimizerOptions::Kind::kAdamW;
  uint64_t schedule = 0;
  double duplicates = 0.1;
  int64_t round_bytes = 0;
  int64_t checkpoint_every = 0;
  SimDisk* disk = nullptr;
  GenerationStart start = {};
  int64_t max_events = 0;
  WireType wire = WireType::kF32;
  Masking masking = Masking::kForward;
  int64_t groups = 0;  // > 0: neuron granularity
  int64_t diagnostics_every = 0;
};

Catalog CatalogOf(const Case& c) {
  const LlamaSpec spec = {
      .dim = 8, .layers = 4, .heads = 2, .kv_heads = 1, .ffn_dim = 12, .vocab = 16};
  if (c.groups == 0) return LlamaCatalog(spec, TransformerUnit::kSublayer, 4);
  return LlamaNeuronCatalog(spec, {NeuronUnits::Attention::kShared, c.groups}, 4);
}

class SimRun {
 public:
  explicit SimRun(const Case& c) : catalog_(CatalogOf(c)), layout_(catalog_, 50) {
    options_.run.catalog = &catalog_;
    options_.run.layout = &layout_;
    options_.run.config_hash = "test";
    options_.run.shards = c.shards;
    options_.run.workers = c.workers;
    auto coverage = ResolveCoverage(catalog_, c.coverage, c.workers);
    EXPECT_TRUE(coverage.ok()) << coverage.status();
    options_.run.coverage = *coverage;
    for (const auto& [from, choice] : c.phases) {
      options_.run.phases.push_back({from, *ResolveCoverage(catalog_, choice, c.workers)});
    }
    options_.run.steps = c.steps;
    options_.run.global_batch = c.global_batch;
    options_.run.rotate_every = c.rotate_every;
    options_.run.eval_every = c.eval_every;
    options_.run.validation = c.eval_every > 0;
    options_.run.clip_norm = c.clip_norm;
    options_.run.seed = 3;
    options_.optimizer.kind = c.optimizer;
    options_.optimizer.lr = 0.01;
    options_.optimizer.steps = c.steps;
    options_.seed = 3;
    options_.data = {100, 1, 10, 2};
    options_.schedule_seed = c.schedule;
    options_.duplicates = c.duplicates;
    options_.round_bytes = c.round_bytes;
    options_.run.checkpoint_every = c.checkpoint_every;
    options_.run.diagnostics_every = c.diagnostics_every;
    options_.run.start = c.start;
    options_.disk = c.disk;
    options_.max_events = c.max_events;
    options_.wire = c.wire;
    options_.masking = c.masking;
    if (c.masking == Masking::kBackward) options_.run.rescale = Rescale::kNone;
    cluster_ = std::make_unique<SimCluster>(
        options_, [this](int) { return std::make_unique<FakeModel>(&layout_, options_.wire); });
  }

  SimCluster& cluster() { return *cluster_; }
  const Catalog& catalog() const { return catalog_; }
  const Layout& layout() const { return layout_; }
  const SimCluster::Options& options() const { return options_; }
  uint64_t hash() const { return cluster_->metrics().back().state_hash.value_or(0); }

 private:
  const Catalog catalog_;
  const Layout layout_;
  SimCluster::Options options_;
  std::unique_ptr<SimCluster> cluster_;
};

// What FakeModel adds to the gradients of a worker that reads what it does not hold.
double ReadOnlyMean(const Layout& layout, const std::vector<UnitId>& held,
                    const std::vector<std::vector<double>>& values) {
  double sum = 0, count = 0;
  for (size_t f = 0; f < values.size(); ++f) {
    const UnitId unit = layout.fragment(FragmentId(static_cast<int>(f))).unit;
    if (std::find(held.begin(), held.end(), unit) != held.end()) continue;
    for (const double value : values[f]) sum += value;
    count += static_cast<double>(values[f].size());
  }
  return count > 0 ? sum / count : 0;
}

// The method, sequentially and in double: every block is updated with the mean over its holders'
// samples, by AdamW or SGD.
std::vector<std::vector<double>> Reference(const SimRun& run, const Case& c) {
  const Layout& layout = run.layout();
  std::vector<std::vector<double>> values, m, v;
  std::vector<int> updates(static_cast<size_t>(layout.fragments()));
  std::vector<std::vector<double>> decay;
  for (int f = 0; f < layout.fragments(); ++f) {
    FloatBuffer start(layout.fragment(FragmentId(f)).size);
    FillInitialValues(run.catalog(), layout, FragmentId(f), 3, start.span());
    values.emplace_back(start.span().begin(), start.span().end());
    m.emplace_back(values.back().size());
    v.emplace_back(values.back().size());
    decay.emplace_back(values.back().size());
    for (const Piece& piece : layout.pieces(FragmentId(f))) {
      for (int64_t i = 0; i < piece.size; ++i) {
        if (run.catalog().tensors[static_cast<size_t>(piece.tensor)].decay) {
          decay.back()[static_cast<size_t>(piece.fragment_offset + i)] =
              run.options().optimizer.weight_decay;
        }
      }
    }
  }
  const SampleOrder order(3, 100, true);
  for (Step t = 0; t < c.steps; ++t) {
    PlanInput input;
    input.catalog = &run.catalog();
    input.coverage = input.reference = run.options().run.coverage;
    for (const CoveragePhase& phase : run.options().run.phases) {
      if (t >= phase.from) input.coverage = phase.coverage;
    }
    for (int w = 0; w < c.workers; ++w) input.ranks.push_back({"worker-" + std::to_string(w), 0});
    input.seed = 3;
    input.rotation = c.rotate_every > 0 ? t / c.rotate_every : 0;
    const Plan plan = *MakePlan(input);
    std::vector<std::vector<double>> means = values;
    std::vector<double> read_only(static_cast<size_t>(c.workers));
    if (c.masking == Masking::kBackward) {
      for (size_t w = 0; w < read_only.size(); ++w)
        read_only[w] = ReadOnlyMean(layout, plan.units[w], values);
    }
    double squares = 0;
    for (int f = 0; f < layout.fragments(); ++f) {
      const size_t unit = static_cast<size_t>(layout.fragment(FragmentId(f)).unit.value());
      auto& mean = means[static_cast<size_t>(f)];
      for (size_t i = 0; i < mean.size(); ++i) {
        double sum = 0, samples = 0;
        int64_t position = t * c.global_batch;
        for (int w = 0; w < c.workers; ++w) {
          const int64_t portion =
              c.global_batch / c.workers + (w < c.global_batch % c.workers ? 1 : 0);
          const auto& holders = plan.holders[unit];
          const bool holds = std::find(holders.begin(), holders.end(), w) != holders.end();
          for (int64_t s = 0; s < portion; ++s, ++position) {
            if (!holds) continue;
            const float target =
                FakeModel::Target(order.Sample(position), FragmentId(f), static_cast<int64_t>(i));
            const double factor = c.masking == Masking::kForward ? plan.factors[unit] : 1;
            sum += factor * (values[static_cast<size_t>(f)][i] - double{target}) +
                   read_only[static_cast<size_t>(w)];
            samples += 1;
          }
        }
        mean[i] = samples > 0 ? sum / samples : NAN;
        if (samples > 0) squares += mean[i] * mean[i];
      }
    }
    const double scale =
        c.clip_norm > 0 ? std::min(1.0, c.clip_norm / (std::sqrt(squares) + 1e-6)) : 1;
    for (size_t f = 0; f < values.size(); ++f) {
      if (std::isnan(means[f][0])) continue;
      const int n = ++updates[f];
      for (size_t i = 0; i < values[f].size(); ++i) {
        const double g = means[f][i] * scale, lr = 0.01;
        if (c.optimizer == OptimizerOptions::Kind::kAdamW) {
          values[f][i] *= 1 - lr * decay[f][i];
          m[f][i] = 0.9 * m[f][i] + 0.1 * g;
          v[f][i] = 0.95 * v[f][i] + 0.05 * g * g;
          values[f][i] -= lr * (m[f][i] / (1 - std::pow(0.9, n))) /
                          (std::sqrt(v[f][i] / (1 - std::pow(0.95, n))) + 1e-8);
        } else {
          m[f][i] = 0.9 * m[f][i] + g + decay[f][i] * values[f][i];
          values[f][i] -= lr * m[f][i];
        }
      }
    }
  }
  return values;
}

void ExpectEqualsReference(const Case& c) {
  SimRun run(c);
  ASSERT_EQ(run.cluster().Run(), absl::OkStatus());
  ASSERT_EQ(run.cluster().metrics().size(), static_cast<size_t>(c.steps) + 1);
  EXPECT_EQ(run.cluster().version_jumps(), 0);
  const auto expected = Reference(run, c);
  for (int f = 0; f < run.layout().fragments(); ++f) {
    const FloatBuffer& value = run.cluster().value(FragmentId(f));
    for (int64_t i = 0; i < value.size(); ++i) {
      // f32 gradients carry 2^-24 relative error; AdamW divides by their size, so an update of lr
      // 0.01 errs by about 1e-8 a step where gradients are of order one and more where they nearly
      // cancel: a gradient of 1e-5 that errs by 1e-8 moves a value by 1e-5 more or less.
      ASSERT_NEAR(value.data()[i], expected[static_cast<size_t>(f)][static_cast<size_t>(i)], 5e-5)
          << "fragment " << f << " element " << i;
    }
  }
}

TEST(SimClusterTest, ImpossiblePlan_EndsTheRun) {
  SimRun run({.workers = 4, .coverage = {.coverage = 0.1}});
  EXPECT_FALSE(run.cluster().Run().ok());
}

TEST(SimClusterTest, EqualsSequentialMethod) {
  ExpectEqualsReference({});
  ExpectEqualsReference({.optimizer = OptimizerOptions::Kind::kSgd});
  ExpectEqualsReference({.clip_norm = 0.3});
  ExpectEqualsReference(
      {.coverage = {.coverage = 1}, .clip_norm = 0.3, .optimizer = OptimizerOptions::Kind::kSgd});
  ExpectEqualsReference({.rotate_every = 2});
}

TEST(SimClusterTest, EqualsSequentialMethod_OddSizes) {
  for (const int workers : {3, 5, 7}) {
    ExpectEqualsReference({.workers = workers, .shards = 3, .global_batch = 11});
    ExpectEqualsReference({.workers = workers,
                           .coverage = {.coverage = 1},
                           .global_batch = 2});  // some have no samples
    ExpectEqualsReference({.workers = workers, .global_batch = 2, .clip_norm = 1});
  }
}

TEST(SimClusterTest, BackwardMasking_EqualsSequentialMethod) {
  const Masking backward = Masking::kBackward;
  ExpectEqualsReference({.masking = backward});
  ExpectEqualsReference(
      {.clip_norm = 0.3, .optimizer = OptimizerOptions::Kind::kSgd, .masking = backward});
  ExpectEqualsReference({.rotate_every = 2, .masking = backward});
  ExpectEqualsReference({.rotate_every = 2, .clip_norm = 0.3, .masking = backward, .groups = 5});
  for (const int workers : {3, 5, 7}) {  // with 2 samples, some have none
    ExpectEqualsReference(
        {.workers = workers, .shards = 3, .global_batch = 11, .masking = backward});
    ExpectEqualsReference(
        {.workers = workers, .global_batch = 2, .clip_norm = 1, .masking = backward});
  }
}

TEST(SimClusterTest, BackwardMasking_AtCoverage1_HasTheBitsOfForward) {
  const Case forward{.coverage = {.coverage = 1}, .eval_every = 0, .clip_norm = 0.3};
  Case backward = forward;
  backward.masking = Masking::kBackward;
  SimRun a(forward), b(backward);
  ASSERT_EQ(a.cluster().Run(), absl::OkStatus());
  ASSERT_EQ(b.cluster().Run(), absl::OkStatus());
  EXPECT_EQ(a.hash(), b.hash());
  EXPECT_EQ(b.cluster().most_retained_bytes(), 0);  // a holder's contribution ends its reads
}

// Readers that are late, headers of workers without samples, rotation: the same bits, and versions
// that wait for their readers are no more than those of the two steps in flight.
TEST(SimClusterTest, BackwardMasking_RandomSchedules_SameBits_NoneStuck) {
  for (const int64_t batch : {8, 3}) {
    const Case c{.steps = 5,
                 .global_batch = batch,
                 .rotate_every = 2,
                 .duplicates = 0,
                 .masking = Masking::kBackward};
    SimRun calm(c);
    ASSERT_EQ(calm.cluster().Run(), absl::OkStatus());
    int64_t retained = 0;
    for (uint64_t schedule = 1; schedule <= (kSanitized ? 30 : 150); ++schedule) {
      Case wild = c;
      wild.schedule = schedule;
      wild.duplicates = 0.3;
      wild.shards = 1 + static_cast<int>(schedule % 3);
      SimRun run(wild);
      const absl::Status status = run.cluster().Run();
      ASSERT_TRUE(status.ok()) << status;
      ASSERT_EQ(run.hash(), calm.hash()) << "schedule " << schedule;
      ASSERT_EQ(run.cluster().version_jumps(), 0) << "schedule " << schedule;
      for (size_t t = 0; t < calm.cluster().metrics().size(); ++t) {
        ASSERT_EQ(run.cluster().metrics()[t].loss, calm.cluster().metrics()[t].loss)
            << "schedule " << schedule;
        ASSERT_EQ(run.cluster().metrics()[t].full_loss, calm.cluster().metrics()[t].full_loss)
            << "schedule " << schedule;
      }
      retained = std::max(retained, run.cluster().most_retained_bytes());
    }
    EXPECT_GT(retained, 0);  // versions did wait
    EXPECT_LE(retained, 2 * 4 * calm.layout().elements());
  }
}

// Shares that differ from unit to unit: every factor and every round has its own number of holders.
TEST(SimClusterTest, EqualsSequentialMethod_CoverageByKindAndDepth) {
  const CoverageChoice depth = {.depth = {1, 0.5, 0.25}};
  ExpectEqualsReference({.coverage = depth});
  ExpectEqualsReference({.coverage = depth, .rotate_every = 2, .clip_norm = 0.3});
  ExpectEqualsReference({.workers = 5,
                         .shards = 3,
                         .coverage = {.depth = {1, 0.3}, .by_kind = {{"attention", 0.7}}},
                         .global_batch = 11});
}

// Dense warm-up, growth, rotation on the way: holders change with the phase, factors keep c_j.
TEST(SimClusterTest, EqualsSequentialMethod_Phases) {
  ExpectEqualsReference({.phases = {{0, {.coverage = 1}}, {2, {.coverage = 0.5}}}});
  ExpectEqualsReference({.coverage = {.depth = {1, 0.5, 0.25}},
                         .phases = {{3, {.coverage = 1}}, {5, {.coverage = 0.25}}},
                         .rotate_every = 2,
                         .clip_norm = 0.3});
}

TEST(SimClusterTest, PhaseWithoutAPlan_EndsTheRunBeforeItBegins) {
  SimRun run({.workers = 40, .phases = {{5, {.coverage = 0.025}}}});  // 8 units on one worker each
  EXPECT_FALSE(run.cluster().Run().ok());
  EXPECT_TRUE(run.cluster().metrics().empty());
}

TEST(SimClusterTest, SameBits_AnyNumberOfShards) {
  uint64_t expected = 0;
  for (const int shards : {1, 2, 3, 7}) {
    SimRun run({.shards = shards, .rotate_every = 3, .clip_norm = 0.5});
    ASSERT_EQ(run.cluster().Run(), absl::OkStatus());
    if (expected == 0) expected = run.hash();
    EXPECT_EQ(run.hash(), expected) << shards << " shards";
  }
}

TEST(SimClusterTest, MoreShardsThanFragments) {
  SimRun one({.shards = 1}), many({.shards = 200});
  ASSERT_EQ(one.cluster().Run(), absl::OkStatus());
  ASSERT_EQ(many.cluster().Run(), absl::OkStatus());
  EXPECT_EQ(one.hash(), many.hash());
}

// Losses, too, must not depend on the schedule: they are sums over workers.
TEST(SimClusterTest, ThousandRandomSchedules_SameBits_NoneStuck) {
  for (const bool clip : {false, true}) {
    SimRun calm({.steps = 5, .rotate_every = 2, .clip_norm = clip ? 0.3 : 0, .duplicates = 0});
    ASSERT_EQ(calm.cluster().Run(), absl::OkStatus());
    for (uint64_t schedule = 1; schedule <= (kSanitized ? 100 : 500); ++schedule) {
      SimRun run({.steps = 5,
                  .rotate_every = 2,
                  .clip_norm = clip ? 0.3 : 0,
                  .schedule = schedule,
                  .duplicates = 0.3});
      const absl::Status status = run.cluster().Run();
      ASSERT_TRUE(status.ok()) << status;
      ASSERT_EQ(run.hash(), calm.hash()) << "schedule " << schedule;
      ASSERT_EQ(run.cluster().version_jumps(), 0) << "schedule " << schedule;
      for (size_t t = 0; t < calm.cluster().metrics().size(); ++t) {
        ASSERT_EQ(run.cluster().metrics()[t].loss, calm.cluster().metrics()[t].loss)
            << "schedule " << schedule;
        ASSERT_EQ(run.cluster().metrics()[t].full_loss, calm.cluster().metrics()[t].full_loss)
            << "schedule " << schedule;
      }
    }
  }
}

// Looking at the dense gradients changes nothing of what is trained, whatever order messages come
// in.
TEST(SimClusterTest, Diagnostics_SameBits_NoneStuck) {
  for (const Masking masking : {Masking::kForward, Masking::kBackward}) {
    for (const double clip_norm : {0.0, 0.5}) {
      Case c{.rotate_every = 2, .clip_norm = clip_norm, .checkpoint_every = 2, .masking = masking};
      SimRun plain(c);
      ASSERT_EQ(plain.cluster().Run(), absl::OkStatus());
      for (c.schedule = 1; c.schedule <= 40; ++c.schedule) {
        c.shards = 1 + static_cast<int>(c.schedule % 3);
        c.diagnostics_every = 1 + static_cast<int64_t>(c.schedule % 2);
        c.eval_every = static_cast<int64_t>(c.schedule % 4);  // 0: no validation data
        SimRun looked(c);
        ASSERT_EQ(looked.cluster().Run(), absl::OkStatus()) << c.schedule;
        ASSERT_EQ(looked.hash(), plain.hash()) << c.schedule;
        EXPECT_EQ(looked.cluster().pushed_bytes(0), plain.cluster().pushed_bytes(0));
        for (const StepMetrics& metrics : looked.cluster().metrics()) {
          const bool due = metrics.loss.has_value() && metrics.step % c.diagnostics_every == 0;
          ASSERT_EQ(!metrics.blocks.empty(), due) << metrics.step;
          for (const BlockDiagnostics& block : metrics.blocks)
            EXPECT_TRUE(block.dense_cosine.has_value()) << block.unit;
        }
      }
    }
  }
}

TEST(SimClusterTest, TightRoundMemory_StillEndsWithTheSameBits) {
  SimRun roomy({.workers = 8}), tight({.workers = 8, .schedule = 9, .round_bytes = 400});
  ASSERT_EQ(roomy.cluster().Run(), absl::OkStatus());
  ASSERT_EQ(tight.cluster().Run(), absl::OkStatus());
  EXPECT_EQ(roomy.hash(), tight.hash());
}

TEST(SimClusterTest, Worker_MovesItsBlocksAndNoMore) {
  const Case c{.steps = 4, .eval_every = 0, .duplicates = 0};
  SimRun run(c);
  ASSERT_EQ(run.cluster().Run(), absl::OkStatus());
  const Plan& plan = *run.cluster().coordinator().plan();
  for (int w = 0; w < c.workers; ++w) {
    int64_t params = 0;
    for (const UnitId unit : plan.units[static_cast<size_t>(w)])
      params += run.catalog().unit(unit).params;
    EXPECT_EQ(run.cluster().delivered_bytes(w), params * 4 * c.steps);
    EXPECT_EQ(run.cluster().pushed_bytes(w), params * 4 * c.steps);
  }
}

TEST(SimClusterTest, BackwardMasking_AllComesIn_HeldGoesOut) {
  const Case c{.steps = 4, .eval_every = 0, .duplicates = 0, .masking = Masking::kBackward};
  SimRun run(c);
  ASSERT_EQ(run.cluster().Run(), absl::OkStatus());
  const Plan& plan = *run.cluster().coordinator().plan();
  for (int w = 0; w < c.workers; ++w) {
    int64_t held = 0;
    for (const UnitId unit : plan.units[static_cast<size_t>(w)])
      held += run.catalog().unit(unit).params;
    EXPECT_LT(held, run.catalog().params());
    EXPECT_EQ(run.cluster().delivered_bytes(w), run.catalog().params() * 4 * c.steps);
    EXPECT_EQ(run.cluster().pushed_bytes(w), held * 4 * c.steps);
  }
}

// bf16 on the wire: half of the bytes, the same bits whatever the schedule and the shards.
TEST(SimClusterTest, Bf16_HalfTheBytes_SameBits) {
  const Case c{.steps = 5, .rotate_every = 2, .eval_every = 0, .clip_norm = 0.3, .duplicates = 0};
  Case narrow = c;
  narrow.wire = WireType::kBf16;
  SimRun f32(c), calm(narrow);
  ASSERT_EQ(f32.cluster().Run(), absl::OkStatus());
  ASSERT_EQ(calm.cluster().Run(), absl::OkStatus());
  EXPECT_NE(calm.hash(), f32.hash());
  for (int w = 0; w < c.workers; ++w) {
    EXPECT_EQ(2 * calm.cluster().delivered_bytes(w), f32.cluster().delivered_bytes(w));
    EXPECT_EQ(2 * calm.cluster().pushed_bytes(w), f32.cluster().pushed_bytes(w));
  }
  for (uint64_t schedule = 1; schedule <= 20; ++schedule) {
    narrow.schedule = schedule;
    narrow.duplicates = 0.3;
    narrow.shards = 1 + static_cast<int>(schedule % 3);
    SimRun run(narrow);
    ASSERT_EQ(run.cluster().Run(), absl::OkStatus());
    EXPECT_EQ(run.hash(), calm.hash()) << "schedule " << schedule;
  }
}

TEST(SimClusterTest, Rotation_CostsNoExtraBytes) {
  int64_t moved[2] = {};
  for (const int rotate : {0, 1}) {
    SimRun run({.steps = 12, .rotate_every = rotate, .eval_every = 0, .duplicates = 0});
    ASSERT_EQ(run.cluster().Run(), absl::OkStatus());
    for (int w = 0; w < 4; ++w)
      moved[rotate] += run.cluster().delivered_bytes(w) + run.cluster().pushed_bytes(w);
    for (const StepMetrics& step : run.cluster().metrics()) {
      EXPECT_EQ(step.min_holders, 2);
      EXPECT_EQ(step.max_holders, 2);
    }
  }
  EXPECT_EQ(moved[0], moved[1]);
}

TEST(SimClusterTest, Stop_EndsAtAStepBoundaryWithoutEvaluation) {
  for (uint64_t schedule = 0; schedule < (kSanitized ? 10 : 50); ++schedule) {
    SimRun run({.steps = 1000, .eval_every = 3, .schedule = schedule});
    run.cluster().StopAfter(4);
    const absl::Status status = run.cluster().Run();
    EXPECT_TRUE(absl::IsCancelled(status)) << status;
    const StepMetrics& last = run.cluster().metrics().back();
    EXPECT_TRUE(last.state_hash.has_value());
    EXPECT_FALSE(last.full_loss.has_value());
    EXPECT_LE(last.step, 9);
  }
}

// Whether a speed says anything.
#if defined(__OPTIMIZE__)
constexpr bool kSpeedCounts = !kSanitized;
#else
constexpr bool kSpeedCounts = false;
#endif

TEST(SimClusterTest, ManyStepsASecond) {
  SimRun run({.steps = 300, .eval_every = 50});
  const absl::Time begin = absl::Now();
  ASSERT_EQ(run.cluster().Run(), absl::OkStatus());
  const double steps_per_sec = 300 / absl::ToDoubleSeconds(absl::Now() - begin);
  RecordProperty("steps_per_sec", std::to_string(steps_per_sec));
  std::cout << "simulated steps a second: " << steps_per_sec << "\n";
  if (kSpeedCounts) {
    EXPECT_GT(steps_per_sec, 100);
  }
}

// Everything is killed after a random number of events, again and again, and goes on from the
// newest checkpoint with another number of shards: the bits are those of the undisturbed run, and
// so is each step's loss. With rotation, clipping and evaluation.
void ExpectSameBitsWhenKilledAndResumed(const Case& c) {
  SimRun undisturbed(c);
  ASSERT_EQ(undisturbed.cluster().Run(), absl::OkStatus());
  std::map<Step, double> losses;
  for (const StepMetrics& metrics : undisturbed.cluster().metrics()) {
    if (metrics.loss.has_value()) losses[metrics.step] = *metrics.loss;
  }
  constexpr int kRuns = kSanitized ? 10 : 40;
  int resumed_later = 0;
  for (uint64_t seed = 0; seed < kRuns; ++seed) {
    RandomStream random(seed, 0x77);
    SimDisk disk;
    Case life = c;
    life.disk = &disk;
    absl::Status end = absl::AbortedError("not begun");
    uint64_t hash = 0;
    for (int64_t generation = 1; absl::IsAborted(end); ++generation) {
      life.schedule = seed * 1000 + static_cast<uint64_t>(generation);
      life.shards = 1 + static_cast<int>(random.Below(4));
      life.start = disk.Newest(Generation(generation));
      // The sixth life is left alone.
      life.max_events = generation > 5
                            ? 0
                            : 1 + static_cast<int64_t>(random.Below(
                                      static_cast<uint64_t>(undisturbed.cluster().events())));
      if (life.start.state.step > 0) ++resumed_later;
      SimRun run(life);
      end = run.cluster().Run();
      for (const StepMetrics& metrics : run.cluster().metrics()) {
        if (!metrics.loss.has_value()) continue;
        EXPECT_EQ(*metrics.loss, losses.at(metrics.step));
      }
      if (end.ok()) hash = run.hash();
    }
    ASSERT_EQ(end, absl::OkStatus()) << "seed " << seed;
    EXPECT_EQ(hash, undisturbed.hash()) << "seed " << seed;
    const audit::Report report = AuditOf(disk);
    EXPECT_EQ(report.steps, c.steps) << "seed " << seed;
    EXPECT_EQ(report.used_once, report.dealt) << "seed " << seed;
  }
  EXPECT_GT(resumed_later, kRuns);
}

TEST(SimClusterTest, KilledAndResumed_SameBits) {
  for (const double clip : {0.0, 0.1}) {
    ExpectSameBitsWhenKilledAndResumed(
        {.steps = 12, .rotate_every = 3, .clip_norm = clip, .checkpoint_every = 2});
  }
  ExpectSameBitsWhenKilledAndResumed(
      {.steps = 12, .rotate_every = 3, .checkpoint_every = 2, .masking = Masking::kBackward});
}

TEST(SimClusterTest, FullDisk_TrainingGoesOn_LaterCheckpointsAreWhole) {
  Case c;
  c.steps = 8;
  c.checkpoint_every = 2;
  SimRun undisturbed(c);
  ASSERT_EQ(undisturbed.cluster().Run(), absl::OkStatus());
  SimDisk disk;
  disk.full = {4};
  c.disk = &disk;
  SimRun run(c);
  const absl::Status end = run.cluster().Run();
  EXPECT_EQ(end.code(), absl::StatusCode::kResourceExhausted) << end;
  EXPECT_EQ(run.hash(), undisturbed.hash());
  std::vector<Step> complete;
  for (const auto& [step, manifest] : disk.manifests) complete.push_back(step);
  EXPECT_EQ(complete, (std::vector<Step>{2, 6, 8}));
}

}  // namespace
}  // namespace sdp

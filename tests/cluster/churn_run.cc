#include "tests/cluster/churn_run.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <utility>

#include "common/model/initial_values.h"
#include "common/model/llama.h"
#include "common/plan/coverage.h"
#include "gtest/gtest.h"
#include "tests/cluster/fake_model.h"
#include "tests/cluster/sim_audit.h"

namespace sdp {
namespace {

constexpr double kLr = 0.01, kMomentum = 0.9;

}  // namespace

ChurnRun::ChurnRun(const ChurnCase& c)
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

bool ChurnRun::HasValuesOf(const ChurnRun& other) const {
  if (!status_.ok() || !other.status_.ok()) return false;
  for (int f = 0; f < layout_.fragments(); ++f) {
    const auto ours = cluster_->value(FragmentId(f)).span();
    const auto theirs = other.cluster_->value(FragmentId(f)).span();
    if (std::memcmp(ours.data(), theirs.data(), ours.size() * sizeof(float)) != 0) return false;
  }
  return true;
}

int64_t ChurnRun::Undone() const { return AuditOf(cluster_->disk()).undone; }

int ChurnRun::HalfDense() const {
  std::map<std::pair<Step, Incarnation>, int> accepted;
  for (const auto& [key, workers] : cluster_->dense_contributions()) {
    for (const Incarnation worker : workers) ++accepted[{key.first, worker}];
  }
  return static_cast<int>(std::count_if(accepted.begin(), accepted.end(), [&](const auto& one) {
    return one.second < layout_.fragments();
  }));
}

void ChurnRun::Check() const {
  ASSERT_EQ(status_, absl::OkStatus());
  EXPECT_EQ(cluster_->version_jumps(), 0);
  ASSERT_EQ(cluster_->metrics().size(), static_cast<size_t>(case_.steps) + 1);
  for (size_t step = 0; step < cluster_->metrics().size(); ++step)
    EXPECT_EQ(cluster_->metrics()[step].step, static_cast<Step>(step));
  CheckSamples();
  CheckValues();
  CheckRecords();
}

std::vector<int64_t> ChurnRun::SpikeSamples() const {
  std::vector<int64_t> samples, reshuffles;
  for (int spike = 0; spike < case_.spikes; ++spike) {
    const SampleOrder order(kSeed, kSamples, true, reshuffles);
    samples.push_back(order.Sample(case_.spike_at * case_.global_batch));
    reshuffles.push_back(case_.spike_at / case_.checkpoint_every * case_.checkpoint_every *
                         case_.global_batch);
  }
  return samples;
}

bool ChurnRun::Contributed(Step step, Incarnation worker, const WorkerBinding& binding) const {
  for (const UnitFactor& unit : *binding.units) {
    for (const FragmentId id : layout_.block(unit.unit)) {
      const auto found = cluster_->contributions().find({step, id});
      if (found == cluster_->contributions().end() || !found->second.contains(worker)) return false;
    }
  }
  return true;
}

void ChurnRun::CheckSamples() const {
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

void ChurnRun::CheckRecords() const {
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

void ChurnRun::CheckValues() const {
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

bool ChurnRun::HasBadSample(Step step, const SampleOrder& order) const {
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

void ChurnRun::CheckDense(Step step, const std::vector<std::vector<double>>& means,
                          const std::vector<std::vector<double>>& values,
                          const SampleOrder& order) const {
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

std::vector<double> ChurnRun::DenseGradient(Step step, FragmentId id,
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

std::vector<double> ChurnRun::MeanGradient(Step step, FragmentId id,
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

double ChurnRun::ReadOnlyMean(const std::set<UnitId>& held,
                              const std::vector<std::vector<double>>& values) const {
  double sum = 0, count = 0;
  for (size_t f = 0; f < values.size(); ++f) {
    if (held.contains(layout_.fragment(FragmentId(static_cast<int>(f))).unit)) continue;
    for (const double value : values[f]) sum += value;
    count += static_cast<double>(values[f].size());
  }
  return count > 0 ? sum / count : 0;
}

}  // namespace sdp

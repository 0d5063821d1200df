#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/model/llama.h"
#include "common/plan/coverage.h"
#include "gtest/gtest.h"
#include "server/coordinator/logic/coordinator.h"

namespace sdp {

// Two workers, one shard; the store answers when a test says so.
class CoordinatorTest : public testing::Test {
 protected:
  CoordinatorTest()
      : catalog_(LlamaCatalog(
            {.dim = 4, .layers = 4, .heads = 2, .kv_heads = 1, .ffn_dim = 6, .vocab = 8},
            TransformerUnit::kSublayer, 4)),
        layout_(catalog_) {
    options_.catalog = &catalog_;
    options_.layout = &layout_;
    options_.config_hash = "cafe";
    options_.workers = 2;
    options_.coverage = *ResolveCoverage(catalog_, {.coverage = 0.5}, 2);
    options_.steps = 10;
    options_.global_batch = 5;
    options_.validation = true;
    options_.eval_every = 2;
  }

  // Answers all stores, keeping their records in order and gathering what follows.
  CoordinatorActions Settle(Coordinator& coordinator, CoordinatorActions actions) {
    CoordinatorActions all;
    while (true) {
      const std::vector<CoordinatorActions::Store> stores = actions.store;
      all.Append(std::move(actions));
      if (stores.empty()) return all;
      actions = CoordinatorActions();
      for (const auto& store : stores) {
        records_.push_back(store.record);
        actions.Append(coordinator.Stored(store.id, now_));
      }
    }
  }

  CoordinatorActions Register(Coordinator& c, const std::string& name, uint64_t instance,
                              const std::string& hash = "cafe") {
    return Settle(c, c.RegisterWorker({name, hash, instance}, now_));
  }

  absl::Status Ready(Coordinator& c, int64_t incarnation, DataSummary data = {100, 7, 20, 8}) {
    absl::Status error;
    Settle(c, c.Ready(Incarnation(incarnation), data, now_, &error));
    return error;
  }

  CoordinatorActions Begin(Coordinator& c, int64_t incarnation, Step step, int64_t plan = -1) {
    absl::Status error;
    CoordinatorActions actions =
        Settle(c, c.BeginStep(Incarnation(incarnation), step, plan, now_, &error));
    EXPECT_EQ(error, absl::OkStatus());
    return actions;
  }

  // Up to two ready workers: incarnations 1 (worker-1) and 2 (worker-0).
  void Gather(Coordinator& c) {
    c.Start(now_);
    Settle(c, c.RegisterShard({"shard-0", "here:1", "cafe", 5}, now_));
    Settle(c, c.OnStepDone({ShardId(0), -1, 0}, now_));
    Register(c, "worker-1", 11);
    Register(c, "worker-0", 10);
    EXPECT_EQ(Ready(c, 1), absl::OkStatus());
    EXPECT_EQ(Ready(c, 2), absl::OkStatus());
  }

  CoordinatorActions CommitStep(Coordinator& c, Step step) {
    CoordinatorActions all;
    for (const int64_t worker : {1, 2}) {
      StepReport report;
      report.worker = Incarnation(worker);
      report.step = step;
      report.loss_sum = 4.0 * static_cast<double>(worker);
      report.terms = 4;
      all.Append(Settle(c, c.OnStepReport(report, now_)));
    }
    all.Append(
        Settle(c, c.OnReduced({ShardId(0),
                               step,
                               std::vector<double>(static_cast<size_t>(layout_.fragments()), 1.0),
                               {}},
                              now_)));
    all.Append(Settle(c, c.OnStepDone({ShardId(0), step, 0}, now_)));
    return all;
  }

  // Heartbeats of workers that wait for others.
  void Alive(Coordinator& c, const std::vector<int64_t>& workers = {1, 2}) {
    for (const int64_t worker : workers) {
      absl::Status error;
      c.WorkerHeartbeat(Incarnation(worker), "step 0: waiting for 3 fragments", /*waits=*/true,
                        now_, &error);
      EXPECT_EQ(error, absl::OkStatus());
    }
  }
  // Of a worker's half of the 20 validation samples: worker-0 (incarnation 2) has the first ones.
  static EvaluationReport Evaluated(int64_t incarnation, Step step, double loss_sum, int64_t terms,
                                    std::optional<int64_t> correct = std::nullopt) {
    return {Incarnation(incarnation), step, loss_sum, terms, correct, incarnation == 1 ? 10 : 0};
  }

  CoordinatorActions Train(Coordinator& c, Step first, Step end) {
    CoordinatorActions all;
    for (Step t = first; t < end; ++t) {
      all.Append(Begin(c, 1, t));
      for (const int64_t worker : {1, 2})
        all.Append(Settle(c, c.OnEvaluation(Evaluated(worker, t, 1, 10), now_)));
      all.Append(CommitStep(c, t));
    }
    return all;
  }

  const Catalog catalog_;
  const Layout layout_;
  Coordinator::Options options_;
  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
  std::vector<Record> records_;
};

}  // namespace sdp

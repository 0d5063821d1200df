#include "common/plan/memory_fit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "common/base/random.h"
#include "common/model/llama.h"
#include "common/model/llama_memory.h"
#include "common/plan/memory.h"
#include "tests/plan/fake_model.h"

// A LLaMA at coverage 1/2 on 4 workers, of which some have less memory than an equal share takes.
namespace sdp::testing {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class MemoryFitTest : public ::testing::Test {
 protected:
  MemoryFitTest() : catalog_(LlamaCatalog(Spec(), TransformerUnit::kSublayer, kTokens)) {
    memory_.stages = [](int64_t samples, const HeldTensors& held) {
      return LlamaMemory(Spec(), kTokens, samples, held, ElementSizes(), Computer());
    };
    memory_.global_batch = 8;
    input_ = FakeInput(catalog_, 4, 0.5, Assignment::kResolvable);
    input_.memory = &memory_;
    const auto equal = MakePlan(input_);
    EXPECT_TRUE(equal.ok()) << equal.status();
    equal_ = *equal;
    for (int rank = 0; rank < 4; ++rank) need_.push_back(Need(equal_, rank));
  }

  static constexpr int64_t kTokens = 16;
  static LlamaSpec Spec() {
    LlamaSpec spec;
    spec.dim = 32;
    spec.layers = 8;
    spec.heads = spec.kv_heads = 2;
    spec.ffn_dim = 88;
    spec.vocab = 64;
    return spec;
  }

  int64_t Need(const Plan& plan, int rank) const {
    return TrainingMemory(catalog_, plan.units[static_cast<size_t>(rank)], memory_, 2).bytes;
  }
  int64_t Macs(const Plan& plan, size_t rank) const {
    int64_t macs = 0;
    for (const UnitId unit : plan.units[rank]) macs += catalog_.unit(unit).macs;
    return macs;
  }
  // In each case: who holds a unit changes, how many do not.
  void ExpectFits(const Plan& plan) const {
    for (size_t unit = 0; unit < equal_.holders.size(); ++unit) {
      EXPECT_EQ(plan.holders[unit].size(), equal_.holders[unit].size());
      EXPECT_TRUE(std::is_sorted(plan.holders[unit].begin(), plan.holders[unit].end()));
    }
    EXPECT_EQ(plan.factors, equal_.factors);
    for (int rank = 0; rank < 4; ++rank) {
      const int64_t has = input_.ranks[static_cast<size_t>(rank)].memory_bytes;
      if (has > 0) {
        EXPECT_LE(Need(plan, rank), has) << "worker-" << rank;
      }
    }
  }

  const Catalog catalog_;
  MemoryModel memory_;
  PlanInput input_;
  Plan equal_;
  std::vector<int64_t> need_;
};

TEST_F(MemoryFitTest, EveryoneHasEnough_ThePlanIsTheSame) {
  for (size_t rank = 0; rank < 4; ++rank) input_.ranks[rank].memory_bytes = need_[rank];
  const auto plan = MakePlan(input_);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->hash, equal_.hash);
  EXPECT_EQ(plan->warnings, equal_.warnings);
}

TEST_F(MemoryFitTest, ASmallWorker_HoldsLess_OthersMore_AndItIsSaid) {
  input_.ranks[2].memory_bytes = need_[2] * 7 / 10;
  const auto plan = MakePlan(input_);
  ASSERT_TRUE(plan.ok()) << plan.status();
  ExpectFits(*plan);
  EXPECT_LT(plan->units[2].size(), equal_.units[2].size());
  EXPECT_THAT(plan->warnings,
              Contains(AllOf(HasSubstr("too little memory"), HasSubstr(": worker-2"))));
  // What it gave away is spread, not heaped on one: a unit is a seventh of what they hold.
  std::vector<int64_t> others = {Macs(*plan, 0), Macs(*plan, 1), Macs(*plan, 3)};
  std::sort(others.begin(), others.end());
  EXPECT_LT(static_cast<double>(others[2]), (1 + 1.0 / 7 + 0.03) * static_cast<double>(others[0]));
}

// Of units between them nobody has room for one more: whole subnetworks change hands.
TEST_F(MemoryFitTest, JustEnoughForTheSubnetworks_InAnotherOrder_TheyAreDealtBySize) {
  // Some units have one holder, others two.
  input_ = FakeInput(catalog_, 4, 0.4, Assignment::kRandom);
  input_.memory = &memory_;
  equal_ = *MakePlan(input_);
  for (int rank = 0; rank < 4; ++rank) need_[static_cast<size_t>(rank)] = Need(equal_, rank);
  std::vector<int64_t> sorted = need_;
  std::sort(sorted.begin(), sorted.end());
  ASSERT_LT(sorted.front(), sorted.back());
  for (size_t rank = 0; rank < 4; ++rank) input_.ranks[rank].memory_bytes = need_[(rank + 1) % 4];
  const auto plan = MakePlan(input_);
  ASSERT_TRUE(plan.ok()) << plan.status();
  ExpectFits(*plan);
  EXPECT_EQ(plan->warnings, equal_.warnings);
  EXPECT_THAT(plan->units, ::testing::UnorderedElementsAreArray(equal_.units));
}

TEST_F(MemoryFitTest, OthersAreNotFilledBeyondTheirs) {
  for (size_t rank = 0; rank < 4; ++rank) input_.ranks[rank].memory_bytes = need_[rank] * 5 / 4;
  input_.ranks[1].memory_bytes = need_[1] * 7 / 10;
  const auto plan = MakePlan(input_);
  ASSERT_TRUE(plan.ok()) << plan.status();
  ExpectFits(*plan);
}

TEST_F(MemoryFitTest, NoRoomAnywhere_NamesWorkerAndNumbers) {
  for (size_t rank = 0; rank < 4; ++rank) input_.ranks[rank].memory_bytes = need_[rank];
  input_.ranks[3].memory_bytes = need_[3] * 7 / 10;
  const absl::Status status = MakePlan(input_).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("worker-3 has 0.3 MiB of memory and would need 0.4 MiB"),
                    HasSubstr("no other worker has room"), HasSubstr("sdp.coverage")));
}

TEST_F(MemoryFitTest, NotEvenOneUnit_IsAnError) {
  input_.ranks[0].memory_bytes = 1000;
  EXPECT_TRUE(absl::IsInvalidArgument(MakePlan(input_).status()));
}

// A large unit for a smaller one, where there is no room for a whole one more.
TEST_F(MemoryFitTest, Exchange) {
  Catalog catalog = FakeModel({{"large", 2, 40}, {"small", 2, 10}});
  for (const UnitSpec& unit : catalog.units)
    catalog.stages.push_back({unit.name, {UnitId(static_cast<int32_t>(catalog.stages.size()))}, 1});
  MemoryModel memory;
  memory.stages = [&catalog](int64_t, const HeldTensors& held) {
    std::vector<StageMemory> stages;
    for (const UnitSpec& unit : catalog.units) {
      const int64_t elements = held.computed[static_cast<size_t>(unit.slices[0].tensor)];
      stages.push_back({.parameters = 4 * elements, .spent_backward = 4 * elements});
    }
    return stages;
  };
  memory.global_batch = 2;
  PlanInput input;
  input.catalog = &catalog;
  input.ranks = FakeRanks(2);
  input.memory = &memory;
  // Units: first, large0, small0, large1, small1, last.
  std::vector<std::vector<int>> holders = {{0, 1}, {0}, {1}, {0}, {1}, {0, 1}};
  const auto need = [&](const std::vector<UnitId>& units) {
    return TrainingMemory(catalog, units, memory, 1).bytes;
  };
  const int64_t large_and_small = need({UnitId(0), UnitId(1), UnitId(2), UnitId(5)});
  input.ranks[0].memory_bytes = large_and_small;
  input.ranks[1].memory_bytes = large_and_small;
  const auto gave = MoveIntoMemory(input, holders);
  ASSERT_TRUE(gave.ok()) << gave.status();
  EXPECT_THAT(*gave, ElementsAre(0));
  int large_on_0 = 0;
  for (const size_t unit : {1, 3}) large_on_0 += holders[unit] == std::vector<int>{0};
  EXPECT_EQ(large_on_0, 1);
}

TEST_F(MemoryFitTest, RandomBudgets_FitOrSayWhy) {
  RandomStream random(5, 0);
  int fit = 0;
  for (int round = 0; round < 100; ++round) {
    for (size_t rank = 0; rank < 4; ++rank)
      input_.ranks[rank].memory_bytes =
          need_[rank] * (60 + static_cast<int64_t>(random.Below(80))) / 100;
    const auto plan = MakePlan(input_);
    if (!plan.ok()) {
      EXPECT_THAT(std::string(plan.status().message()), HasSubstr("of memory and would need"));
      continue;
    }
    ++fit;
    ExpectFits(*plan);
  }
  EXPECT_GT(fit, 10);
  EXPECT_LT(fit, 90);
}

}  // namespace
}  // namespace sdp::testing

#include <string>
#include <vector>

#include "common/base/allocated.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker_model/count_macs.h"
#include "tests/worker_model/llama_case.h"
#include "worker/model/llama.h"

// The catalog is what the planner believes; these tests hold it against what torch really computes
// and keeps.
namespace sdp {
namespace {

// ---- Multiply-accumulates: sizes of the matrix products that torch runs ----

TEST(CatalogAgreementTest, Macs_AreThoseOfTheMatrixProducts) {
  for (const bool tied : {false, true}) {
    LlamaSpec spec = LlamaCase::Spec();
    spec.tied = tied;
    for (const LlamaCase& c :
         {LlamaCase(spec), LlamaCase(spec, LlamaNeuronCatalog(spec, {.groups = 3}, 11), 11)}) {
      FakeExchange exchange = c.MakeExchange();
      EvaluateTask task;
      task.units = c.Held();
      task.samples = 3;
      absl::StatusOr<LossSum> result;
      const int64_t counted = CountMacs([&] { result = c.model->Evaluate(task, exchange); });
      ASSERT_TRUE(result.ok()) << result.status();
      int64_t expected = 0;
      for (const UnitSpec& unit : c.catalog.units) expected += 3 * unit.macs;
      EXPECT_EQ(counted, expected);
    }
  }
}

// ---- Stored activations: what torch's allocator holds when the backward pass begins ----

class AtBackward : public FakeExchange {
 public:
  using FakeExchange::FakeExchange;
  void BackwardBegins() override { live_bytes = Allocated().now; }
  int64_t live_bytes = 0;
};

constexpr int64_t kLength = 101;

void ExpectStored(const LlamaCase& c, const std::vector<std::string>& absent) {
  AtBackward exchange(c.layout, c.Fragments(c.weights));
  TrainTask task;
  task.units = c.Held(absent);
  task.samples = {0, 1, 2, 3, 4};
  const int64_t before = Allocated().now;
  const absl::StatusOr<TrainResult> result = c.model->Train(task, exchange);
  ASSERT_TRUE(result.ok()) << result.status();
  // Beside them: the weights that the backward pass reads, which embedding's and head's are not;
  // the head's gradients (made with the loss), and the token ids, 2 x 8 bytes each.
  int64_t elements = 0, weights = 0;
  for (const HeldUnit& held : task.units) {
    const UnitSpec& unit = c.catalog.unit(held.unit);
    elements += 5 * unit.activation_elements;
    if (unit.name != "embed" && unit.name != "head") weights += unit.params;
  }
  const int64_t head = c.spec.vocab * c.spec.dim + c.spec.dim;
  const int64_t tokens = 5 * kLength * 2 * 8;
  const int64_t measured = exchange.live_bytes - before - 4 * (weights + head) - tokens;
  // 0.1%: a few scalars.
  EXPECT_NEAR(static_cast<double>(measured), 4.0 * static_cast<double>(elements),
              0.004 * static_cast<double>(elements))
      << "measured " << measured / 4 << " elements, catalog " << elements;
}

TEST(CatalogAgreementTest, StoredActivations_AreWhatTheAllocatorHolds) {
  const std::vector<std::vector<std::string>> blocks = {
      {}, {"layers.0.mlp"}, {"layers.0.attention", "layers.1.attention"}};
  const std::vector<std::vector<std::string>> parts = {
      {},
      {"layers.0.mlp.0", "layers.0.mlp.2"},
      {"layers.0.attention.1", "layers.1.attention.0", "layers.1.mlp.1"}};
  for (const bool tied : {false, true}) {
    LlamaSpec spec = LlamaCase::Spec();
    spec.tied = tied;
    for (const auto& absent : blocks)
      ExpectStored(LlamaCase(spec, TransformerUnit::kSublayer, kLength), absent);
    for (const auto& absent : parts) {
      ExpectStored(LlamaCase(spec, LlamaNeuronCatalog(spec, {.groups = 3}, kLength), kLength),
                   absent);
    }
  }
}

// ---- Names, shapes, boundaries ----

TEST(CatalogAgreementTest, Stages_NamesShapesAndBoundaries) {
  for (const TransformerUnit unit : {TransformerUnit::kSublayer, TransformerUnit::kLayer}) {
    const LlamaCase c(LlamaCase::Spec(), unit);
    const Network network = LlamaNetwork(c.spec, c.seq_len);
    ASSERT_EQ(c.catalog.stages.size(), network.stages.size() + 1);
    at::Tensor h = c.data.Input({0, 1, 2});
    for (size_t stage = 0; stage < network.stages.size(); ++stage) {
      std::vector<at::Tensor> weights;
      for (const WeightNames& names : network.stages[stage]->Weights()) {
        std::vector<at::Tensor> parts;
        for (const std::string& name : names) parts.push_back(c.weights.at(name));
        weights.push_back(at::cat(parts));
      }
      h = network.stages[stage]->Forward(h, weights, 1);
      EXPECT_EQ(h.numel(), 3 * c.catalog.stages[stage].boundary_elements)
          << c.catalog.stages[stage].name;
    }
    EXPECT_EQ(c.catalog.stages.back().boundary_elements, 0);
  }
}

}  // namespace
}  // namespace sdp

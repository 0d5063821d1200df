#pragma once

#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "common/model/llama.h"
#include "gtest/gtest.h"
#include "server/shard/logic/shard.h"

namespace sdp {

// One shard with all fragments of a small LLaMA; workers 11, 12 (incarnations) hold everything, 13
// only what is shared.
class ShardTest : public testing::Test {
 protected:
  ShardTest()
      : catalog_(LlamaCatalog(
            {.dim = 4, .layers = 2, .heads = 2, .kv_heads = 1, .ffn_dim = 6, .vocab = 8},
            TransformerUnit::kSublayer, 4)),
        layout_(catalog_, 40) {
    options_.name = "shard-0";
    options_.catalog = &catalog_;
    options_.layout = &layout_;
    options_.generation = Generation(1);
    options_.term = Term(1);
    options_.optimizer.kind = OptimizerOptions::Kind::kSgd;
    options_.optimizer.lr = 1;
    options_.optimizer.momentum = 0;
    options_.optimizer.weight_decay = 0;
    options_.optimizer.steps = 100;
  }

  Shard& Make() {
    shard_ = std::make_unique<Shard>(options_,
                                     [](FragmentId, absl::Span<float> values, OptimizerState&) {
                                       for (float& value : values) value = 1;
                                     });
    shard_->Start();
    return *shard_;
  }

  ShardBinding Binding(Step step, bool evaluate = false, bool closing = false,
                       bool checkpoint = false) {
    auto sets = std::make_shared<HolderSets>();
    sets->members = {Incarnation(11), Incarnation(12), Incarnation(13)};
    sets->sets = {{Incarnation(11), Incarnation(12)},
                  {Incarnation(11), Incarnation(12), Incarnation(13)}};
    for (const UnitSpec& unit : catalog_.units) sets->set_of_unit.push_back(unit.shared ? 1 : 0);
    return {Generation(1), ViewId(1), step, 0, sets, evaluate, closing, checkpoint};
  }

  PushKey Key(int64_t worker, FragmentId fragment, Step step = 0, int64_t terms = 1) {
    PushKey key;
    key.generation = Generation(1);
    key.view = ViewId(1);
    key.term = Term(1);
    key.step = step;
    key.worker = Incarnation(worker);
    key.fragment = fragment;
    key.terms = terms;
    return key;
  }

  PushKey Dense(int64_t worker, FragmentId fragment, Step step = 0, int64_t terms = 1) {
    PushKey key = Key(worker, fragment, step, terms);
    key.purpose = Purpose::kDense;
    return key;
  }
  int64_t Elements(const Shard& shard) const {
    int64_t elements = 0;
    for (const FragmentId id : shard.owned()) elements += layout_.fragment(id).size;
    return elements;
  }

  PullRequest Want(int64_t worker, std::vector<FragmentId> fragments, Step step = 0) {
    PullRequest request;
    static_cast<RequestKey&>(request) = Key(worker, FragmentId(0), step);
    request.fragments = std::move(fragments);
    return request;
  }

  ReadsDone Done(int64_t worker, Step step) { return {Key(worker, FragmentId(0), step)}; }
  // Of all members.
  void AllDone(Shard& shard, Step step) {
    for (const int64_t worker : {11, 12, 13}) shard.Done(Done(worker, step));
  }
  // The first element of a fragment that the worker asks for at `step`; NAN: refused, or not yet.
  float Read(Shard& shard, int64_t worker, FragmentId fragment, Step step) {
    const ShardActions actions = shard.Pull(Want(worker, {fragment}, step));
    if (actions.deliveries.empty() || actions.deliveries[0].value == nullptr) return NAN;
    return actions.deliveries[0].value->data()[0];
  }

  FloatBuffer Gradient(FragmentId fragment, float value) {
    FloatBuffer gradient(layout_.fragment(fragment).size);
    for (float& element : gradient.span()) element = value;
    return gradient;
  }

  // All holders of all fragments push `value` for `step`.
  ShardActions PushAll(Shard& shard, Step step, float value) {
    ShardActions all;
    for (const FragmentId id : shard.owned()) {
      for (const int64_t worker : {11, 12, 13}) {
        if (worker == 13 && !catalog_.unit(layout_.fragment(id).unit).shared) continue;
        ShardActions actions = shard.Push(Key(worker, id, step), Gradient(id, value));
        for (auto& reduced : actions.reduced) all.reduced.push_back(reduced);
        for (auto& done : actions.done) all.done.push_back(done);
        for (auto& hashes : actions.hashes) all.hashes.push_back(hashes);
        for (auto& delivery : actions.deliveries) all.deliveries.push_back(delivery);
      }
    }
    return all;
  }

  // A fragment of a unit that is not shared.
  FragmentId Masked() { return layout_.block(UnitId(1)).front(); }

  const Catalog catalog_;
  const Layout layout_;
  Shard::Options options_;
  std::unique_ptr<Shard> shard_;
};

inline Answer Only(const ShardActions& actions) {
  EXPECT_EQ(actions.answers.size(), 1u);
  return actions.answers.empty() ? Answer::kReceived : actions.answers[0].answer;
}

}  // namespace sdp

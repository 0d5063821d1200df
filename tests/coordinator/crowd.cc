#include "tests/coordinator/crowd.h"

#include <utility>

namespace sdp {

Catalog Crowd::Model(const Size& size) {
  Catalog catalog;
  const auto add = [&](const std::string& name, const std::string& kind) {
    UnitSpec unit;
    unit.name = name;
    unit.kind = kind;
    unit.shared = kind == "shared";
    unit.macs = unit.params = kElements * size.fragments_per_unit;
    unit.slices = {{static_cast<int>(catalog.tensors.size()), -1, 0, 0}};
    catalog.tensors.push_back({name + ".weight", {unit.params}, {}});
    catalog.units.push_back(std::move(unit));
  };
  add("first", "shared");
  for (int i = 0; i < size.units; ++i) add(absl::StrCat("unit.", i), "unit");
  add("last", "shared");
  return catalog;
}

Coordinator::Options Crowd::OptionsOf(const Size& size) const {
  Coordinator::Options options;
  options.catalog = &catalog_;
  options.layout = &layout_;
  options.config_hash = "cafe";
  options.shards = size.shards;
  options.workers = size.workers;
  for (const UnitSpec& unit : catalog_.units)
    options.coverage.push_back(unit.shared ? 1.0
                                           : static_cast<double>(size.holders) / size.workers);
  options.steps = 1'000'000;
  options.global_batch = int64_t{4} * size.workers;
  options.validation = true;
  options.eval_every = size.eval_every;
  options.clip_norm = 1;
  return options;
}

CoordinatorActions Crowd::Settle(CoordinatorActions actions) {
  CoordinatorActions all;
  while (true) {
    const std::vector<CoordinatorActions::Store> stores = std::move(actions.store);
    actions.store.clear();
    all.Append(std::move(actions));
    if (stores.empty()) return all;
    actions = CoordinatorActions();
    for (const auto& store : stores) actions.Append(logic_.Stored(store.id, now_));
  }
}

void Crowd::Start() {
  logic_.Start(now_);
  for (int s = 0; s < size_.shards; ++s) {
    Settle(logic_.RegisterShard({absl::StrCat("shard-", s), absl::StrCat("10.0.0.1:", 7000 + s),
                                 "cafe", static_cast<uint64_t>(s + 1)},
                                now_));
  }
  squares_.resize(static_cast<size_t>(size_.shards));
  for (const ShardId shard : layout_.Place(size_.shards))
    squares_[static_cast<size_t>(shard.value())].push_back(1e-6);
  for (int s = 0; s < size_.shards; ++s) Settle(logic_.OnStepDone({ShardId(s), -1}, now_));
}

CoordinatorActions Crowd::Report(Incarnation worker, Step step) {
  StepReport report;
  report.worker = worker;
  report.step = step;
  report.loss_sum = 8;
  report.terms = 4;
  return Settle(logic_.OnStepReport(report, now_));
}

CoordinatorActions Crowd::Commit(Step step) {
  CoordinatorActions all;
  for (int s = 0; s < size_.shards; ++s) {
    all.Append(
        Settle(logic_.OnReduced({ShardId(s), step, squares_[static_cast<size_t>(s)], {}}, now_)));
  }
  for (int s = 0; s < size_.shards; ++s)
    all.Append(Settle(logic_.OnStepDone({ShardId(s), step}, now_)));
  return all;
}

}  // namespace sdp

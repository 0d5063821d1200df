#include "worker/model/inference_model.h"

#include <algorithm>
#include <string>
#include <utility>
#include <variant>

#include "ATen/ATen.h"
#include "ATen/Parallel.h"
#include "absl/strings/str_cat.h"
#include "c10/core/InferenceMode.h"
#include "common/base/status.h"
#include "worker/model/llama.h"
#include "worker/model/slim_weights.h"
#include "worker/model/stage.h"
#include "worker/model/torch_errors.h"
#include "worker/model/walk.h"
#include "worker/model/weight_map.h"

namespace sdp {
namespace {

class TorchInference : public InferenceModel {
 public:
  TorchInference(const StoredModel& stored, int64_t vocab, int64_t positions, Network network,
                 WeightMap map, WalkPlan plan)
      : vocab_(vocab),
        positions_(positions),
        network_(std::move(network)),
        map_(std::move(map)),
        plan_(std::move(plan)),
        slim_(stored.catalog, stored.layout, map_, plan_.units, plan_.folded),
        weights_(stored.layout, slim_, /*trained=*/nullptr, Placement()),
        caches_(network_.stages.size()) {}

  absl::Status LoadUnit(const StoredModel& stored, UnitId unit) {
    SDP_ASSIGN_OR_RETURN(std::vector<WireBuffer> fragments, ReadBlock(stored, unit));
    return weights_.Unpack(unit, std::move(fragments));
  }

  absl::StatusOr<absl::Span<const float>> Logits(absl::Span<const int32_t> tokens) override {
    SDP_RETURN_IF_ERROR(Check(tokens, 0));
    return Compute("logits", [&] {
      at::Tensor h = Ids(tokens);
      for (size_t stage = 0; stage < network_.stages.size(); ++stage) {
        h = network_.stages[stage]->Forward(h, weights_.OfStage(stage), plan_.stages[stage].factor);
      }
      return h;
    });
  }

  absl::StatusOr<absl::Span<const float>> Append(absl::Span<const int32_t> tokens) override {
    SDP_RETURN_IF_ERROR(Check(tokens, length_));
    return Compute("decoding", [&] {
      at::Tensor h = Ids(tokens);
      for (size_t stage = 0; stage < network_.stages.size(); ++stage) {
        h = network_.stages[stage]->Decode(h, weights_.OfStage(stage), plan_.stages[stage].factor,
                                           caches_[stage]);
      }
      length_ += h.size(1);
      return h.narrow(1, h.size(1) - 1, 1).contiguous();
    });
  }

  void Clear() override {
    for (KeyValueCache& cache : caches_) cache.length = 0;
    length_ = 0;
  }
  int64_t length() const override { return length_; }

 private:
  absl::Status Check(absl::Span<const int32_t> tokens, int64_t before) const {
    const auto count = static_cast<int64_t>(tokens.size());
    if (count == 0) return absl::InvalidArgumentError("no tokens");
    if (count > positions_ - before) {
      return absl::InvalidArgumentError(
          absl::StrCat(count, " tokens", before > 0 ? absl::StrCat(" after ", before) : "",
                       ": there are positions for ", positions_));
    }
    for (const int32_t id : tokens) {
      if (id < 0 || id >= vocab_) {
        return absl::InvalidArgumentError(
            absl::StrCat("token id ", id, ": the vocabulary has ids from 0 to ", vocab_ - 1));
      }
    }
    return absl::OkStatus();
  }

  static at::Tensor Ids(absl::Span<const int32_t> tokens) {
    at::Tensor ids = at::empty({1, static_cast<int64_t>(tokens.size())}, at::kLong);
    std::copy(tokens.begin(), tokens.end(), ids.mutable_data_ptr<int64_t>());
    return ids;
  }

  // The logits of what `walk` returns, the last boundary activation.
  template <typename Walk>
  absl::StatusOr<absl::Span<const float>> Compute(const char* doing, const Walk& walk) {
    const c10::InferenceMode no_gradients;
    try {
      logits_ =
          network_.loss->Logits(walk(), weights_.OfStage(network_.stages.size())).contiguous();
    } catch (...) {
      return CurrentException(doing);
    }
    return absl::MakeConstSpan(logits_.const_data_ptr<float>(),
                               static_cast<size_t>(logits_.numel()));
  }

  const int64_t vocab_;
  const int64_t positions_;
  const Network network_;
  const WeightMap map_;
  const WalkPlan plan_;
  const SlimMap slim_;  // of the whole model
  SlimWeights weights_;
  std::vector<KeyValueCache> caches_;  // [stages]
  int64_t length_ = 0;
  at::Tensor logits_;
};

}  // namespace

absl::StatusOr<std::vector<WireBuffer>> ReadBlock(const StoredModel& model, UnitId unit) {
  std::vector<WireBuffer> fragments;
  for (const FragmentId id : model.layout.block(unit)) {
    FloatBuffer values(model.layout.fragment(id).size);
    SDP_RETURN_IF_ERROR(model.read(id, values.span()));
    fragments.push_back(std::move(values));
  }
  return fragments;
}

absl::StatusOr<std::unique_ptr<InferenceModel>> LoadInferenceModel(const StoredModel& stored,
                                                                   int64_t positions, int threads) {
  const auto* const llama = std::get_if<LlamaSpec>(&stored.model);
  if (llama == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(stored.name, " is no language model"));
  }
  if (threads > 0) at::set_num_threads(threads);
  std::vector<HeldUnit> units;
  for (size_t unit = 0; unit < stored.catalog.units.size(); ++unit) {
    units.push_back({UnitId(static_cast<int32_t>(unit)), stored.factors[unit]});
  }
  SDP_ASSIGN_OR_RETURN(WalkPlan plan, PlanWalk(stored.catalog, units));
  try {
    Network network = LlamaNetwork(*llama, positions);
    SDP_ASSIGN_OR_RETURN(WeightMap map, WeightMap::Make(stored.catalog, network));
    auto model = std::make_unique<TorchInference>(
        stored, llama->vocab, positions, std::move(network), std::move(map), std::move(plan));
    for (const HeldUnit& unit : units) SDP_RETURN_IF_ERROR(model->LoadUnit(stored, unit.unit));
    return model;
  } catch (...) {
    return CurrentException("load the weights");
  }
}

}  // namespace sdp

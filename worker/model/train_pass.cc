#include "worker/model/train_pass.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/allocated.h"
#include "common/base/status.h"
#include "torch/autograd.h"
#include "worker/model/recompute.h"

namespace sdp {
namespace {

// Adds the time of its life to `sum`.
class Timed {
 public:
  explicit Timed(absl::Duration& sum) : sum_(sum) {}
  ~Timed() { sum_ += absl::FromChrono(std::chrono::steady_clock::now() - start_); }

 private:
  absl::Duration& sum_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// Both hooks run when a weight's gradient is complete, which for a weight with several uses (a tied
// head) is after the last of them.

// Of the micro-batches before the last, where gradients are bf16: adds the gradient to a sum in
// f32, since torch would add up in bf16.
class SumHook : public torch::autograd::PostAccumulateGradHook {
 public:
  explicit SumHook(at::Tensor& sum) : sum_(sum) {}
  void operator()(const torch::autograd::Variable& tensor) override {
    if (sum_.defined()) {
      sum_.add_(tensor.grad());
    } else {
      const MemoryScope gradients(MemoryKind::kGradients);
      sum_ = tensor.grad().to(at::kFloat);
    }
    tensor.mutable_grad().reset();
  }

 private:
  at::Tensor& sum_;
};

// Of the last one. `sum`: of the earlier ones, if it is kept apart.
class HandOutHook : public torch::autograd::PostAccumulateGradHook {
 public:
  HandOutHook(SlimWeights& weights, GradientPacker& packer, int weight, at::Tensor& sum)
      : weights_(weights), packer_(packer), weight_(weight), sum_(sum) {}
  void operator()(const torch::autograd::Variable& tensor) override {
    weights_.Release(weight_);  // Every stage that reads it is done. Room for the packed gradient.
    at::Tensor gradient = tensor.grad().contiguous();
    tensor.mutable_grad().reset();
    if (sum_.defined()) {
      sum_.add_(gradient);
      gradient = std::exchange(sum_, at::Tensor());  // In f32: the packer rounds it.
    }
    packer_.Pack(weight_, gradient);
  }

 private:
  SlimWeights& weights_;
  GradientPacker& packer_;
  const int weight_;
  at::Tensor& sum_;
};

std::vector<UnitId> IdsOf(absl::Span<const HeldUnit> units) {
  std::vector<UnitId> ids;
  for (const HeldUnit& held : units) ids.push_back(held.unit);
  return ids;
}

}  // namespace

TrainPass::TrainPass(const TorchWalk& walk, const WalkPlan& plan, const BatchSource& source,
                     const TrainTask& task, Exchange& exchange)
    : walk_(walk),
      plan_(plan),
      source_(source),
      task_(task),
      exchange_(exchange),
      terms_(static_cast<int64_t>(task.samples.size()) * source.terms_per_sample()),
      first_(FirstUses(walk.catalog)),
      read_only_(walk.catalog.units.size()),
      sums_(walk.map.weights().size()),
      map_(walk.catalog, walk.layout, walk.map, plan.units, plan.folded),
      trained_(walk.catalog, walk.layout, walk.map, IdsOf(task.units), plan.folded),
      weights_(walk.layout, map_, &trained_, walk.placement) {
  for (const UnitId unit : task.read_only) read_only_[static_cast<size_t>(unit.value())] = true;
}

absl::StatusOr<TrainResult> TrainPass::Run() {
  const MemoryScope activations(MemoryKind::kActivations);  // but for what says otherwise
  Doing("start", "");
  const absl::Span<const int64_t> samples = task_.samples, epochs = task_.epochs;
  if (samples.empty()) return absl::InvalidArgumentError("a training task without samples");
  const size_t micro =
      task_.micro_batch > 0 ? static_cast<size_t>(task_.micro_batch) : samples.size();
  GradientPacker packer(walk_.layout, trained_, task_.units, walk_.placement.type, exchange_);
  for (size_t begin = 0; begin < samples.size(); begin += micro) {
    Doing("reading samples", "");
    absl::StatusOr<Batch> batch = source_.Read(
        samples.subspan(begin, micro), epochs.empty() ? epochs : epochs.subspan(begin, micro));
    if (!batch.ok()) return Context(batch.status(), doing_);
    const bool last = begin + micro >= samples.size();
    SDP_ASSIGN_OR_RETURN(const at::Tensor loss,
                         Forward(*std::move(batch), last ? Micro::kLast : Micro::kOther));
    const double mean = loss.item<double>();  // its part of the task's mean
    // Before any backward pass of this micro-batch, and only the last one's hands out gradients:
    // none has been handed out yet.
    if (!std::isfinite(mean) && !task_.hand_out_not_finite) {
      return absl::OutOfRangeError(
          absl::StrCat("step ", task_.step, ": the loss of samples ", begin, " to ",
                       std::min(begin + micro, samples.size()) - 1, " is ", mean));
    }
    result_.loss.loss_sum += mean * static_cast<double>(terms_);
    const Timed timed(result_.backward);
    if (last) {
      HandOutGradients(packer);
      exchange_.BackwardBegins();
      SDP_RETURN_IF_ERROR(HandOutIdle(packer));
    } else if (begin == 0 && walk_.placement.type == WireType::kBf16) {
      SumGradients();
    }
    Doing("backward", "");
    // NaN goes down to every weight that the loss depends on, whatever made it infinite.
    const bool finite = std::isfinite(result_.loss.loss_sum);
    loss.backward(finite ? at::Tensor() : at::full_like(loss, std::nan("")));
  }
  if (std::isfinite(result_.loss.loss_sum)) {
    result_.loss.terms = terms_;
  } else {
    result_.loss = LossSum();
  }
  {
    const Timed timed(result_.backward);  // A GPU is still at it.
    SDP_RETURN_IF_ERROR(packer.Finish(walk_.catalog));
  }
  return result_;
}

absl::StatusOr<at::Tensor> TrainPass::Forward(Batch batch, Micro micro) {
  const Timed timed(result_.forward);
  at::Tensor h = ToDevice(std::exchange(batch.input, at::Tensor()), walk_.placement.device);
  const size_t last = walk_.network.stages.size();
  for (size_t stage = 0; stage < last; ++stage) {
    if (!plan_.stages[stage].present) continue;
    SDP_RETURN_IF_ERROR(TakeUnits(stage));
    Doing("forward of ", walk_.catalog.stages[stage].name);
    if (micro == Micro::kLast) ReleaseAfterBackward(stage, h);
    const Stage& compute = *walk_.network.stages[stage];
    const double factor = plan_.stages[stage].factor;
    const std::vector<at::Tensor> weights = weights_.OfStage(stage);
    const std::vector<TrainedPart> parts = weights_.PartsOfStage(stage);
    h = walk_.catalog.stages[stage].recomputed ? RecomputedTrain(compute, h, weights, parts, factor)
                                               : compute.Train(h, weights, parts, factor);
    if (micro == Micro::kLast) ReleaseSpent(stage);
  }
  SDP_RETURN_IF_ERROR(TakeUnits(last));
  Doing("forward of ", walk_.catalog.stages[last].name);
  at::Tensor loss =
      walk_.network.loss->Loss(h, ToDevice(batch.target, walk_.placement.device),
                               weights_.OfStage(last), 1.0 / static_cast<double>(terms_));
  if (micro == Micro::kLast) ReleaseSpent(last);
  return loss;
}

void TrainPass::ReleaseSpent(size_t stage) {
  for (const int weight : walk_.map.spent(stage)) {
    if (weights_.tensor(weight).defined()) weights_.Release(weight);
  }
}

void TrainPass::ReleaseAfterBackward(size_t stage, const at::Tensor& input) {
  std::vector<UnitId> units;
  for (const UnitId unit : walk_.catalog.stages[stage].units) {
    const auto index = static_cast<size_t>(unit.value());
    if (read_only_[index] && first_[index] == stage) units.push_back(unit);
  }
  std::vector<int> weights;  // Those of which a part is held go as its gradient is handed out.
  for (const int weight : walk_.map.first(stage)) {
    if (weights_.tensor(weight).defined() && !HasGradient(weight)) weights.push_back(weight);
  }
  if (units.empty() && weights.empty()) return;
  input.register_hook([this, weights, units](const at::Tensor&) {
    for (const int weight : weights) weights_.Release(weight);
    for (const UnitId unit : units) exchange_.Released(unit);
  });
}

absl::Status TrainPass::TakeUnits(size_t stage) {
  for (const UnitId unit : walk_.catalog.stages[stage].units) {
    if (!map_.Has(unit) || weights_.Has(unit)) continue;
    Doing("weights of ", walk_.catalog.unit(unit).name);
    absl::StatusOr<std::vector<WireBuffer>> fragments;
    {
      const Timed timed(result_.wait);
      fragments = exchange_.Take(unit);
    }
    if (!fragments.ok()) return Context(fragments.status(), doing_);
    SDP_RETURN_IF_ERROR(weights_.Unpack(unit, *std::move(fragments)));
  }
  return absl::OkStatus();
}

absl::Status TrainPass::HandOutIdle(GradientPacker& packer) {
  for (const UnitId unit : plan_.idle) {
    SDP_RETURN_IF_ERROR(
        Context(exchange_.Take(unit).status(),
                absl::StrCat("step ", task_.step, ": weights of ", walk_.catalog.unit(unit).name)));
    packer.PackZeros(unit);
  }
  return absl::OkStatus();
}

void TrainPass::HandOutGradients(GradientPacker& packer) {
  for (size_t w = 0; w < walk_.map.weights().size(); ++w) {
    const int weight = static_cast<int>(w);
    if (!HasGradient(weight)) continue;
    torch::autograd::impl::set_post_acc_grad_hooks(
        weights_.leaf(weight), std::make_unique<HandOutHook>(weights_, packer, weight, sums_[w]));
  }
}

void TrainPass::SumGradients() {
  for (size_t w = 0; w < walk_.map.weights().size(); ++w) {
    const int weight = static_cast<int>(w);
    if (!HasGradient(weight)) continue;
    torch::autograd::impl::set_post_acc_grad_hooks(weights_.leaf(weight),
                                                   std::make_unique<SumHook>(sums_[w]));
  }
}

void TrainPass::Doing(const char* what, const std::string& where) {
  doing_ = absl::StrCat("step ", task_.step, ": ", what, where);
}

}  // namespace sdp

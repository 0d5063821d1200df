#include "worker/model/dense_pass.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/allocated.h"
#include "common/base/status.h"
#include "torch/autograd.h"

namespace sdp {

DensePass::DensePass(const TorchWalk& walk, const WalkPlan& plan, const BatchSource& source,
                     const DenseTask& task, Exchange& exchange)
    : walk_(walk),
      plan_(plan),
      source_(source),
      task_(task),
      scale_(1.0 / static_cast<double>(static_cast<int64_t>(task.samples.size()) *
                                       source.terms_per_sample())),
      weights_(walk, plan, PassingWeights::Gradients::kOfAll, exchange),
      packer_(walk.layout, weights_.map(), task.units, walk.placement.type, exchange),
      inputs_(walk.catalog.stages.size()),
      sums_(walk.map.weights().size()) {}

absl::Status DensePass::Run() {
  const MemoryScope activations(MemoryKind::kActivations);  // but for what says otherwise
  if (task_.samples.empty()) return absl::InvalidArgumentError("a dense task without samples");
  SDP_RETURN_IF_ERROR(weights_.Check());
  weights_.Want(0);
  SDP_RETURN_IF_ERROR(ReadSamples());
  const size_t loss = walk_.network.stages.size();
  for (size_t stage = 0; stage < loss; ++stage) SDP_RETURN_IF_ERROR(Forward(stage));
  for (size_t stage = loss + 1; stage-- > 0;) SDP_RETURN_IF_ERROR(Backward(stage));
  return packer_.Finish(walk_.catalog);
}

absl::Status DensePass::ReadSamples() {
  doing_ = absl::StrCat("dense gradient of step ", task_.step, ": reading samples");
  const absl::Span<const int64_t> samples = task_.samples, epochs = task_.epochs;
  const size_t micro =
      task_.micro_batch > 0 ? static_cast<size_t>(task_.micro_batch) : samples.size();
  for (size_t begin = 0; begin < samples.size(); begin += micro) {
    const absl::StatusOr<Batch> batch = source_.Read(
        samples.subspan(begin, micro), epochs.empty() ? epochs : epochs.subspan(begin, micro));
    if (!batch.ok()) return Context(batch.status(), doing_);
    inputs_[0].push_back(ToDevice(batch->input, walk_.placement.device));
    targets_.push_back(ToDevice(batch->target, walk_.placement.device));
  }
  outer_.resize(targets_.size());
  return absl::OkStatus();
}

absl::Status DensePass::Take(size_t stage) {
  Doing("weights of ", stage);
  return Context(weights_.Take(stage), doing_);
}

absl::Status DensePass::Forward(size_t stage) {
  SDP_RETURN_IF_ERROR(Take(stage));
  weights_.Want(stage + 1);
  Doing("forward of ", stage);
  const at::NoGradGuard no_graph;
  for (const at::Tensor& input : inputs_[stage]) inputs_[stage + 1].push_back(Output(stage, input));
  weights_.Drop(stage, LastUses(walk_.catalog));
  return absl::OkStatus();
}

absl::Status DensePass::Backward(size_t stage) {
  SDP_RETURN_IF_ERROR(Take(stage));
  if (stage > 0) weights_.Want(stage - 1);
  Doing("backward of ", stage);
  const std::vector<int>& weights = walk_.map.stage(stage);
  for (size_t micro = 0; micro < targets_.size(); ++micro) {
    std::vector<at::Tensor> leaves;
    for (const int weight : weights) leaves.push_back(weights_.here().leaf(weight));
    const at::Tensor input = std::exchange(inputs_[stage][micro], at::Tensor()).detach();
    if (stage > 0) leaves.push_back(input.requires_grad_());
    std::vector<at::Tensor> gradients = GradientsOf(stage, micro, input, leaves);
    if (stage > 0) outer_[micro] = std::move(gradients.back());
    const MemoryScope scope(MemoryKind::kGradients);
    for (size_t i = 0; i < weights.size(); ++i) {
      at::Tensor& sum = sums_[static_cast<size_t>(weights[i])];
      // Not in place: what autograd gives may be a view of something else.
      sum = sum.defined() ? sum.to(at::kFloat).add(gradients[i]) : std::move(gradients[i]);
    }
  }
  HandOut(stage);
  weights_.Drop(stage, FirstUses(walk_.catalog));
  return absl::OkStatus();
}

at::Tensor DensePass::Output(size_t stage, const at::Tensor& input) const {
  return walk_.network.stages[stage]->Train(input, weights_.here().OfStage(stage),
                                            weights_.here().PartsOfStage(stage),
                                            plan_.stages[stage].factor);
}

std::vector<at::Tensor> DensePass::GradientsOf(size_t stage, size_t micro, const at::Tensor& input,
                                               const std::vector<at::Tensor>& leaves) const {
  if (stage < walk_.network.stages.size())
    return torch::autograd::grad({Output(stage, input)}, leaves, {outer_[micro]});
  return torch::autograd::grad(
      {walk_.network.loss->Loss(input, targets_[micro], weights_.here().OfStage(stage), scale_)},
      leaves);
}

void DensePass::HandOut(size_t stage) {
  for (const int weight : walk_.map.first(stage)) {
    const at::Tensor gradient =
        std::exchange(sums_[static_cast<size_t>(weight)], at::Tensor()).contiguous();
    packer_.Pack(weight, gradient);
  }
}

void DensePass::Doing(const char* what, size_t stage) {
  doing_ = absl::StrCat("dense gradient of step ", task_.step, ": ", what,
                        walk_.catalog.stages[stage].name);
}

}  // namespace sdp

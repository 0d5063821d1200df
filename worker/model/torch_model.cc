#include "worker/model/torch_model.h"

#include <utility>

#include "ATen/Parallel.h"
#include "c10/core/AutogradState.h"
#include "common/base/status.h"
#include "worker/model/dense_pass.h"
#include "worker/model/evaluate_pass.h"
#include "worker/model/torch_errors.h"
#include "worker/model/train_pass.h"
#include "worker/model/walk.h"

namespace sdp {
namespace {

// OpenMP's thread count belongs to the thread that calls, so it is set where the work is done.
void UseThreads(int threads) {
  if (threads > 0) at::set_num_threads(threads);
}

// Backward passes run on the thread that asks for them, where torch would use one of its own for a
// GPU: what a hook calls is confined to the compute thread, and tensors have its MemoryScope.
void ComputeHere(const TorchOptions& options) {
  UseThreads(options.threads);
  c10::AutogradState::get_tls_state().set_multithreading_enabled(false);
  ComputeOnThisThread(options.placement.device);
}

template <typename Pass, typename Result>
Result Run(const TorchOptions& options, Pass& pass, Result (Pass::*run)()) {
  try {
    ComputeHere(options);
    return (pass.*run)();
  } catch (...) {
    return CurrentException(pass.doing());
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<TorchModel>> TorchModel::Make(
    const Catalog& catalog, const Layout& layout, Network network,
    std::unique_ptr<BatchSource> training, std::unique_ptr<BatchSource> validation,
    const TorchOptions& options) {
  SDP_ASSIGN_OR_RETURN(WeightMap map, WeightMap::Make(catalog, network));
  UseThreads(options.threads);
  return std::unique_ptr<TorchModel>(
      new TorchModel({catalog, layout, std::move(network), std::move(map), options.placement},
                     std::move(training), std::move(validation), options));
}

TorchModel::TorchModel(TorchWalk walk, std::unique_ptr<BatchSource> training,
                       std::unique_ptr<BatchSource> validation, const TorchOptions& options)
    : walk_(std::move(walk)),
      training_(std::move(training)),
      validation_(std::move(validation)),
      options_(options) {}

absl::StatusOr<TrainResult> TorchModel::Train(const TrainTask& task, Exchange& exchange) {
  SDP_ASSIGN_OR_RETURN(const WalkPlan plan, PlanWalk(walk_.catalog, task.units, task.read_only));
  TrainPass pass(walk_, plan, *training_, task, exchange);
  return Run(options_, pass, &TrainPass::Run);
}

absl::StatusOr<LossSum> TorchModel::Evaluate(const EvaluateTask& task, Exchange& exchange) {
  if (task.samples == 0) return LossSum{};
  if (validation_ == nullptr)
    return absl::FailedPreconditionError("evaluation without a validation set");
  SDP_ASSIGN_OR_RETURN(const WalkPlan plan, PlanWalk(walk_.catalog, task.units));
  EvaluatePass pass(walk_, plan, *training_, *validation_, options_.norms, options_.memory_bytes,
                    task, exchange);
  return Run(options_, pass, &EvaluatePass::Run);
}

absl::Status TorchModel::DenseGradient(const DenseTask& task, Exchange& exchange) {
  SDP_ASSIGN_OR_RETURN(const WalkPlan plan, PlanWalk(walk_.catalog, task.units));
  DensePass pass(walk_, plan, *training_, task, exchange);
  return Run(options_, pass, &DensePass::Run);
}

absl::StatusOr<NormValues> TorchModel::LearnNorms(const EvaluateTask& task, Exchange& exchange) {
  SDP_ASSIGN_OR_RETURN(const WalkPlan plan, PlanWalk(walk_.catalog, task.units));
  EvaluatePass pass(walk_, plan, *training_, *training_, /*norms=*/{}, options_.memory_bytes, task,
                    exchange);
  SDP_ASSIGN_OR_RETURN(const std::vector<NormStatistics> statistics,
                       Run(options_, pass, &EvaluatePass::RunNorms));
  return NormValuesOf(walk_.catalog, statistics);
}

}  // namespace sdp

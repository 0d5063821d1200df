#include "worker/model/make_model.h"

#include <utility>

#include "common/base/status.h"
#include "worker/model/batches.h"
#include "worker/model/counting_allocator.h"
#include "worker/model/device.h"
#include "worker/model/networks.h"
#include "worker/model/torch_model.h"

namespace sdp {

namespace {

absl::StatusOr<std::unique_ptr<TorchModel>> Make(const Catalog& catalog, const Layout& layout,
                                                 const ModelSpec& spec, const Dataset& training,
                                                 const Dataset* validation,
                                                 const ModelOptions& options) {
  CountTensors();
  SDP_ASSIGN_OR_RETURN(const at::Device device, OpenDevice(options.device));
  SDP_ASSIGN_OR_RETURN(std::unique_ptr<BatchSource> training_source, MakeBatches(spec, training));
  std::unique_ptr<BatchSource> validation_source;
  if (validation != nullptr) {
    SDP_ASSIGN_OR_RETURN(validation_source, MakeBatches(spec, *validation));
  }
  TorchOptions torch_options = {options.threads, options.memory_bytes, {device, options.precision}};
  if (options.norms != nullptr && HasBatchNorm(spec)) {
    SDP_ASSIGN_OR_RETURN(torch_options.norms, NormStatisticsOf(catalog, *options.norms));
  }
  return TorchModel::Make(catalog, layout, MakeNetwork(spec, training.terms_per_sample(), device),
                          std::move(training_source), std::move(validation_source), torch_options);
}

}  // namespace

absl::StatusOr<std::unique_ptr<LocalModel>> MakeTorchModel(
    const Catalog& catalog, const Layout& layout, const ModelSpec& spec, const Dataset* training,
    const Dataset* validation, const ModelOptions& options) {
  return Make(catalog, layout, spec, *training, validation, options);
}

absl::StatusOr<NormValues> LearnNorms(const Catalog& catalog, const Layout& layout,
                                      const ModelSpec& spec, const Dataset& training,
                                      const ModelOptions& options, const EvaluateTask& task,
                                      Exchange& exchange) {
  SDP_ASSIGN_OR_RETURN(const std::unique_ptr<TorchModel> model,
                       Make(catalog, layout, spec, training, nullptr, options));
  return model->LearnNorms(task, exchange);
}

}  // namespace sdp

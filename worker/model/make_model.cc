#include "worker/model/make_model.h"

#include <utility>

#include "common/base/status.h"
#include "worker/model/batches.h"
#include "worker/model/counting_allocator.h"
#include "worker/model/device.h"
#include "worker/model/networks.h"
#include "worker/model/torch_model.h"

namespace sdp {

absl::StatusOr<std::unique_ptr<LocalModel>> MakeTorchModel(
    const Catalog& catalog, const Layout& layout, const ModelSpec& spec, const Dataset* training,
    const Dataset* validation, const ModelOptions& options) {
  CountTensors();
  SDP_ASSIGN_OR_RETURN(const at::Device device, OpenDevice(options.device));
  SDP_ASSIGN_OR_RETURN(std::unique_ptr<BatchSource> training_source, MakeBatches(spec, *training));
  std::unique_ptr<BatchSource> validation_source;
  if (validation != nullptr) {
    SDP_ASSIGN_OR_RETURN(validation_source, MakeBatches(spec, *validation));
  }
  SDP_ASSIGN_OR_RETURN(
      std::unique_ptr<LocalModel> model,
      TorchModel::Make(catalog, layout, MakeNetwork(spec, training->terms_per_sample(), device),
                       std::move(training_source), std::move(validation_source),
                       {options.threads, options.memory_bytes, {device, options.precision}}));
  return model;
}

}  // namespace sdp

#include "worker/model/make_model.h"

#include <utility>

#include "common/base/status.h"
#include "worker/model/counting_allocator.h"
#include "worker/model/device.h"
#include "worker/model/llama.h"
#include "worker/model/token_batches.h"
#include "worker/model/torch_model.h"

namespace sdp {

absl::StatusOr<std::unique_ptr<LocalModel>> MakeTorchModel(
    const Catalog& catalog, const Layout& layout, const LlamaSpec& spec, const Dataset* training,
    const Dataset* validation, const ModelOptions& options) {
  CountTensors();
  SDP_ASSIGN_OR_RETURN(const at::Device device, OpenDevice(options.device));
  std::unique_ptr<BatchSource> validation_source;
  if (validation != nullptr) validation_source = std::make_unique<TokenBatches>(*validation);
  SDP_ASSIGN_OR_RETURN(
      std::unique_ptr<LocalModel> model,
      TorchModel::Make(catalog, layout, LlamaNetwork(spec, training->seq_len(), device),
                       std::make_unique<TokenBatches>(*training), std::move(validation_source),
                       {options.threads, options.memory_bytes, {device, options.precision}}));
  return model;
}

}  // namespace sdp

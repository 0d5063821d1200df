#include "worker/inference/evaluate_images.h"

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status.h"
#include "worker/data/image_dataset.h"
#include "worker/inference/stored_exchange.h"
#include "worker/inference/stored_norms.h"
#include "worker/model/make_model.h"

namespace sdp {

absl::Status EvaluateImages(const EvaluateRequest& request, StoredModel& model, std::ostream& out) {
  if (request.seq_len > 0 || !request.logits.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(request.seq_len > 0 ? "--seq-len" : "--logits",
                                                   " is for language models; ", model.name,
                                                   " is an image model"));
  }
  SDP_ASSIGN_OR_RETURN(
      const std::unique_ptr<ImageDataset> data,
      OpenImages(*model.images->kind, request.data,
                 {.image_size = model.images->image_size, .classes = model.images->classes}));
  SDP_RETURN_IF_ERROR(LearnStoredNorms(model, request.threads));
  SDP_ASSIGN_OR_RETURN(
      const std::unique_ptr<LocalModel> local,
      MakeTorchModel(model.catalog, model.layout, model.model, data.get(), data.get(),
                     {.threads = request.threads,
                      .memory_bytes = kEvaluationMemoryBytes,
                      .norms = &model.images->norms}));
  const int64_t samples =
      request.samples > 0 ? std::min(request.samples, data->samples()) : data->samples();
  StoredExchange exchange(model);
  SDP_ASSIGN_OR_RETURN(const LossSum sum, local->Evaluate(FullModelTask(model, samples), exchange));
  const double loss = sum.loss_sum / static_cast<double>(sum.terms);
  const double accuracy =
      static_cast<double>(sum.correct.value_or(0)) / static_cast<double>(sum.terms);
  if (request.format == EvaluateRequest::Format::kJson) {
    const nlohmann::ordered_json json = {
        {"loss", loss}, {"accuracy", accuracy}, {"samples", samples}};
    out << json.dump() << std::endl;
  } else {
    out << absl::StrFormat("loss %.4f nats per image  %.2f%% right  of %d images\n", loss,
                           100 * accuracy, samples)
        << std::flush;
  }
  return absl::OkStatus();
}

}  // namespace sdp

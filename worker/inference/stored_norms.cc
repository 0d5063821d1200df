#include "worker/inference/stored_norms.h"

#include <memory>

#include "common/base/status.h"
#include "common/model/architectures.h"
#include "worker/data/image_dataset.h"
#include "worker/inference/stored_exchange.h"
#include "worker/model/make_model.h"

namespace sdp {

absl::Status LearnStoredNorms(StoredModel& model, int threads) {
  if (!HasBatchNorm(model.model) || !model.images->norms.empty()) return absl::OkStatus();
  const StoredImages& images = *model.images;
  const absl::StatusOr<std::unique_ptr<ImageDataset>> training =
      OpenImages(*images.kind, images.training,
                 {.image_size = images.image_size,
                  .classes = images.classes,
                  .augmentation_seed = images.augmentation_seed});
  if (!training.ok()) {
    return Context(training.status(), "BatchNorm's statistics are learnt of data.train");
  }
  StoredExchange exchange(model);
  SDP_ASSIGN_OR_RETURN(model.images->norms,
                       LearnNorms(model.catalog, model.layout, model.model, **training,
                                  {.threads = threads, .memory_bytes = kEvaluationMemoryBytes},
                                  FullModelTask(model, /*samples=*/0), exchange));
  return absl::OkStatus();
}

}  // namespace sdp

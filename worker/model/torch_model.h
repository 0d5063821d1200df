#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/catalog.h"
#include "common/model/layout.h"
#include "common/model/norm_values.h"
#include "worker/logic/local_model.h"
#include "worker/model/device.h"
#include "worker/model/norms.h"
#include "worker/model/stage.h"
#include "worker/model/weight_map.h"

namespace sdp {

// What both passes walk; they see it const.
struct TorchWalk {
  const Catalog& catalog;  // outlives the model
  const Layout& layout;    // outlives the model
  Network network;         // on the placement's device
  WeightMap map;
  Placement placement;
};

struct TorchOptions {
  int threads = 0;  // of torch and BLAS; 0: as torch chooses
  int64_t memory_bytes =
      0;  // evaluation keeps half of it in boundary activations; 0: those of one micro-batch
  Placement placement;
  std::vector<NormStatistics> norms = {};  // [stages] BatchNorm's, if known: else it learns them
};

// LocalModel on LibTorch: any architecture that a Network describes. Holds no parameters between
// tasks. Threads: as LocalModel. The thread count is a setting of the process that this class
// makes. Errors: LibTorch's exceptions end here, as Internal or
// ResourceExhausted (out of memory) that say what was being computed.
class TorchModel : public LocalModel {
 public:
  // InvalidArgument - network and catalog disagree. `validation` may be null if Evaluate is never
  // called with samples.
  static absl::StatusOr<std::unique_ptr<TorchModel>> Make(const Catalog& catalog,
                                                          const Layout& layout, Network network,
                                                          std::unique_ptr<BatchSource> training,
                                                          std::unique_ptr<BatchSource> validation,
                                                          const TorchOptions& options);

  absl::StatusOr<TrainResult> Train(const TrainTask& task, Exchange& exchange) override;
  // OutOfRange - the loss is not finite. With micro_batch 0 as many samples are computed at once as
  // have 16,384 targets: all of a validation set would rarely fit.
  absl::StatusOr<LossSum> Evaluate(const EvaluateTask& task, Exchange& exchange) override;
  absl::Status DenseGradient(const DenseTask& task, Exchange& exchange) override;
  // What Evaluate would learn of BatchNorm's statistics.
  absl::StatusOr<NormValues> LearnNorms(const EvaluateTask& task, Exchange& exchange);

 private:
  TorchModel(TorchWalk walk, std::unique_ptr<BatchSource> training,
             std::unique_ptr<BatchSource> validation, const TorchOptions& options);

  const TorchWalk walk_;
  const std::unique_ptr<BatchSource> training_;
  const std::unique_ptr<BatchSource> validation_;
  const TorchOptions options_;
};

}  // namespace sdp

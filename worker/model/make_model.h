#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "common/base/dtype.h"
#include "common/model/architectures.h"
#include "common/model/catalog.h"
#include "common/model/layout.h"
#include "common/model/norm_values.h"
#include "worker/data/dataset.h"
#include "worker/logic/local_model.h"

// The way in for the rest of the worker: no torch header here.
namespace sdp {

enum class Device { kCpu, kCuda };

struct ModelOptions {
  int threads = 0;           // torch's; a setting of the whole process. 0: as torch chooses
  int64_t memory_bytes = 0;  // `worker.memory`; evaluation keeps half of it in boundary
                             // activations. 0: those of one micro-batch
  WireType precision = WireType::kF32;  // of weights, gradients and boundary activations
  Device device = Device::kCpu;
  // BatchNorm's, where they are known: evaluation uses them, and else learns them of the training
  // set each time. Outlives MakeTorchModel's call.
  const NormValues* norms = nullptr;
};

// The model on LibTorch, with one of the catalogs of the same spec (common/model/architectures.h)
// and, where samples are text, of the data sets' seq_len. catalog, layout and data sets outlive the
// model; `validation` may be null. From the first call on the process counts its tensors
// (common/base/allocated.h). InvalidArgument - spec and catalog disagree, or the data are of
// another kind than the model takes. FailedPrecondition - no such device; says what to do.
absl::StatusOr<std::unique_ptr<LocalModel>> MakeTorchModel(
    const Catalog& catalog, const Layout& layout, const ModelSpec& spec, const Dataset* training,
    const Dataset* validation, const ModelOptions& options);

// Of the memory of the GPU that OpenDevice gives, what nobody has yet. Precondition: there is a model
// on it.
absl::StatusOr<int64_t> FreeGpuMemory();

// Of the full model, BatchNorm's statistics as an evaluation with the same units and micro-batches
// learns them; none if it has no BatchNorm. Arguments and errors as above and as
// LocalModel::Evaluate's.
absl::StatusOr<NormValues> LearnNorms(const Catalog& catalog, const Layout& layout,
                                      const ModelSpec& spec, const Dataset& training,
                                      const ModelOptions& options, const EvaluateTask& task,
                                      Exchange& exchange);

}  // namespace sdp

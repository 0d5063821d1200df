#pragma once

#include <cstdint>
#include <vector>

#include "ATen/ATen.h"
#include "absl/status/statusor.h"
#include "common/model/catalog.h"
#include "common/model/norm_values.h"
#include "worker/model/image_ops.h"

namespace sdp {

// What the activations before BatchNorm are like, over many batches: means and variances of the
// norms of one stage, in the order in which it computes them, each the mean over batches (torch's
// cumulative average: unbiased variances).
struct NormStatistics {
  std::vector<at::Tensor> mean, variance;  // [norms], each [C] f32
  int64_t batches = 0;
};

// By their names, and back: [stages]. InvalidArgument - one is missing, or has another size.
NormValues NormValuesOf(const Catalog& catalog, const std::vector<NormStatistics>& statistics);
absl::StatusOr<std::vector<NormStatistics>> NormStatisticsOf(const Catalog& catalog,
                                                             const NormValues& values);

// How a stage computes its norms, one after the other. BatchNorm goes by the batch's own statistics
// in training; in evaluation these are learnt of the full model first and then used. GroupNorm goes
// by each sample's own throughout. Threads: confined to one.
class Norms {
 public:
  Norms() = default;  // by the batch's own
  // By the batch's own, which count as one more batch of `statistics`.
  static Norms Learn(NormStatistics& statistics);
  // By `statistics`, which have at least one batch.
  static Norms Use(const NormStatistics& statistics);

  ImageNormed operator()(const at::Tensor& x, const ImageNormWeights& w);

 private:
  NormStatistics* learnt_ = nullptr;
  const NormStatistics* used_ = nullptr;
  size_t next_ = 0;
};

}  // namespace sdp

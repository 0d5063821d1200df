#include "worker/model/norms.h"

#include <tuple>

namespace sdp {

Norms Norms::Learn(NormStatistics& statistics) {
  Norms norms;
  norms.learnt_ = &statistics;
  ++statistics.batches;
  return norms;
}

Norms Norms::Use(const NormStatistics& statistics) {
  Norms norms;
  norms.used_ = &statistics;
  return norms;
}

ImageNormed Norms::operator()(const at::Tensor& x, const ImageNormWeights& w) {
  if (w.groups > 0 || (learnt_ == nullptr && used_ == nullptr)) return ImageNorm(x, w);
  const size_t norm = next_++;
  ImageNormed normed;
  if (learnt_ != nullptr) {
    if (norm == learnt_->mean.size()) {
      learnt_->mean.push_back(at::zeros_like(w.weight));
      learnt_->variance.push_back(at::ones_like(w.weight));
    }
    // In the k-th batch what was there keeps (k - 1) / k.
    std::tie(normed.y, normed.mean, normed.rstd) =
        at::native_batch_norm(x, w.weight, w.bias, learnt_->mean[norm], learnt_->variance[norm],
                              /*training=*/true, 1 / static_cast<double>(learnt_->batches), w.eps);
  } else {
    std::tie(normed.y, normed.mean, normed.rstd) =
        at::native_batch_norm(x, w.weight, w.bias, used_->mean[norm], used_->variance[norm],
                              /*training=*/false, /*momentum=*/0, w.eps);
  }
  return normed;
}

}  // namespace sdp

#include "worker/model/norms.h"

#include <tuple>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace sdp {
namespace {

std::vector<float> ValuesOf(const at::Tensor& tensor) {
  const at::Tensor host = tensor.cpu().contiguous();
  const float* const data = host.const_data_ptr<float>();
  return {data, data + host.numel()};
}

}  // namespace

NormValues NormValuesOf(const Catalog& catalog, const std::vector<NormStatistics>& statistics) {
  NormValues values;
  for (size_t stage = 0; stage < statistics.size(); ++stage) {
    const std::vector<NormSpec> norms = NormsOf(catalog, catalog.stages[stage]);
    for (size_t i = 0; i < statistics[stage].mean.size(); ++i) {
      values[norms[i].mean()] = ValuesOf(statistics[stage].mean[i]);
      values[norms[i].variance()] = ValuesOf(statistics[stage].variance[i]);
    }
  }
  return values;
}

absl::StatusOr<std::vector<NormStatistics>> NormStatisticsOf(const Catalog& catalog,
                                                             const NormValues& values) {
  std::vector<NormStatistics> statistics(catalog.stages.size());
  for (size_t stage = 0; stage < statistics.size(); ++stage) {
    for (const NormSpec& norm : NormsOf(catalog, catalog.stages[stage])) {
      for (const auto& [name, into] : {std::pair{norm.mean(), &statistics[stage].mean},
                                       std::pair{norm.variance(), &statistics[stage].variance}}) {
        const auto found = values.find(name);
        if (found == values.end() || static_cast<int64_t>(found->second.size()) != norm.channels) {
          return absl::InvalidArgumentError(
              absl::StrCat("no ", norm.channels, " values of ", name));
        }
        into->push_back(at::tensor(at::ArrayRef<float>(found->second)));
      }
    }
    statistics[stage].batches = 1;
  }
  return statistics;
}

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

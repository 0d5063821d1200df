#include "worker/model/batches.h"

#include <algorithm>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/data/image_dataset.h"

namespace sdp {
namespace {

class TokenBatches : public BatchSource {
 public:
  explicit TokenBatches(const TokenDataset& data) : data_(data) {}

  absl::StatusOr<Batch> Read(absl::Span<const int64_t> samples,
                             absl::Span<const int64_t>) const override {
    const std::vector<int64_t> shape = {static_cast<int64_t>(samples.size()), data_.seq_len()};
    Batch batch{at::empty(shape, at::kLong), at::empty(shape, at::kLong)};
    int64_t* input = batch.input.mutable_data_ptr<int64_t>();
    int64_t* target = batch.target.mutable_data_ptr<int64_t>();
    std::vector<int32_t> tokens(static_cast<size_t>(data_.seq_len()) + 1);
    for (const int64_t sample : samples) {
      data_.Read(sample, absl::MakeSpan(tokens));
      input = std::copy(tokens.begin(), tokens.end() - 1, input);
      target = std::copy(tokens.begin() + 1, tokens.end(), target);
    }
    return batch;
  }
  int64_t samples() const override { return data_.samples(); }
  int64_t terms_per_sample() const override { return data_.terms_per_sample(); }

 private:
  const TokenDataset& data_;
};

class ImageBatches : public BatchSource {
 public:
  explicit ImageBatches(const ImageDataset& data) : data_(data) {}

  absl::StatusOr<Batch> Read(absl::Span<const int64_t> samples,
                             absl::Span<const int64_t> epochs) const override {
    const auto count = static_cast<int64_t>(samples.size());
    const ImageDataset::Shape shape = data_.shape();
    Batch batch{at::empty({count, shape.channels, shape.height, shape.width}, at::kFloat),
                at::empty({count}, at::kLong)};
    const auto elements = static_cast<size_t>(shape.elements());
    float* pixels = batch.input.mutable_data_ptr<float>();
    int64_t* target = batch.target.mutable_data_ptr<int64_t>();
    for (size_t i = 0; i < samples.size(); ++i) {
      const int64_t epoch = epochs.empty() ? 0 : epochs[i];
      SDP_ASSIGN_OR_RETURN(target[i],
                           data_.Read(samples[i], epoch, {pixels + i * elements, elements}));
    }
    return batch;
  }
  int64_t samples() const override { return data_.samples(); }
  int64_t terms_per_sample() const override { return data_.terms_per_sample(); }

 private:
  const ImageDataset& data_;
};

using Source = absl::StatusOr<std::unique_ptr<BatchSource>>;

Source ImagesOf(const Dataset& data, int64_t inputs, int64_t classes) {
  if (data.images() == nullptr) {
    return absl::InvalidArgumentError("an image model learns from images");
  }
  const ImageDataset& images = *data.images();
  if (images.shape().elements() != inputs || images.classes() > classes) {
    return absl::InvalidArgumentError(
        absl::StrCat("images of ", images.shape().elements(), " numbers and ", images.classes(),
                     " classes for a model of ", inputs, " and ", classes));
  }
  return std::make_unique<ImageBatches>(images);
}

// One per architecture.
Source BatchesFor(const ImageMlpSpec& spec, const Dataset& data) {
  return ImagesOf(data, spec.inputs, spec.classes);
}
Source BatchesFor(const ResnetSpec& spec, const Dataset& data) {
  return ImagesOf(data, spec.channels * spec.image_size * spec.image_size, spec.classes);
}
Source BatchesFor(const SwinSpec& spec, const Dataset& data) {
  return ImagesOf(data, spec.channels * spec.image_size * spec.image_size, spec.classes);
}
Source BatchesFor(const LlamaSpec&, const Dataset& data) {
  if (data.tokens() == nullptr) {
    return absl::InvalidArgumentError("a language model learns from text or tokens");
  }
  return std::make_unique<TokenBatches>(*data.tokens());
}

}  // namespace

Source MakeBatches(const ModelSpec& spec, const Dataset& data) {
  return std::visit([&](const auto& one) { return BatchesFor(one, data); }, spec);
}

}  // namespace sdp

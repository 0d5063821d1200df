#include "common/export/tensor_stream.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace sdp {

TensorStream::TensorStream(const StoredModel& model)
    : model_(model), places_(model.catalog.tensors.size()) {
  for (int id = 0; id < model.layout.fragments(); ++id) {
    for (const Strip& strip : model.layout.strips(FragmentId(id))) {
      places_[static_cast<size_t>(strip.first.tensor)].push_back({FragmentId(id), strip});
    }
  }
  for (std::vector<Place>& places : places_) {
    std::stable_sort(places.begin(), places.end(), [](const Place& a, const Place& b) {
      return a.strip.first.tensor_offset < b.strip.first.tensor_offset;
    });
  }
}

absl::Status TensorStream::Read(int tensor, const Take& take) {
  const std::vector<Place>& places = places_[static_cast<size_t>(tensor)];
  const bool columns = std::any_of(places.begin(), places.end(),
                                   [](const Place& place) { return place.strip.count > 1; });
  return columns ? ReadColumns(tensor, take) : ReadRows(tensor, take);
}

absl::Status TensorStream::ReadRows(int tensor, const Take& take) {
  constexpr size_t kChunk = 1 << 16;  // elements that are multiplied at once
  const TensorSpec& spec = model_.catalog.tensors[static_cast<size_t>(tensor)];
  std::vector<float> product;
  int64_t next = 0;
  for (const Place& place : places_[static_cast<size_t>(tensor)]) {
    const Piece& piece = place.strip.first;
    if (piece.tensor_offset != next) {
      return absl::InternalError(absl::StrCat("no fragment has element ", next, " of ", spec.name));
    }
    next += piece.size;
    SDP_RETURN_IF_ERROR(Load(place.fragment));
    absl::Span<const float> values =
        absl::MakeConstSpan(values_.span())
            .subspan(static_cast<size_t>(piece.fragment_offset), static_cast<size_t>(piece.size));
    const float factor = Factor(spec, place.fragment);
    if (factor == 1) {
      SDP_RETURN_IF_ERROR(take(values));
      continue;
    }
    for (; !values.empty(); values.remove_prefix(product.size())) {
      product.assign(values.begin(),
                     values.begin() + static_cast<std::ptrdiff_t>(std::min(kChunk, values.size())));
      for (float& value : product) value *= factor;
      SDP_RETURN_IF_ERROR(take(product));
    }
  }
  if (next == spec.elements()) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("no fragment has element ", next, " of ", spec.name));
}

absl::Status TensorStream::ReadColumns(int tensor, const Take& take) {
  const TensorSpec& spec = model_.catalog.tensors[static_cast<size_t>(tensor)];
  FloatBuffer whole(spec.elements());
  int64_t filled = 0;
  for (const Place& place : places_[static_cast<size_t>(tensor)]) {
    SDP_RETURN_IF_ERROR(Load(place.fragment));
    const float factor = Factor(spec, place.fragment);
    const Strip& strip = place.strip;
    const float* from = values_.data() + strip.first.fragment_offset;
    for (int64_t run = 0; run < strip.count; ++run) {
      float* to = whole.data() + strip.first.tensor_offset + run * strip.stride;
      for (int64_t i = 0; i < strip.first.size; ++i) to[i] = *from++ * factor;
    }
    filled += strip.elements();
  }
  if (filled == spec.elements()) return take(whole.span());
  return absl::InternalError(
      absl::StrCat("fragments have ", filled, " of ", spec.elements(), " elements of ", spec.name));
}

absl::Status TensorStream::Load(FragmentId fragment) {
  if (fragment == loaded_) return absl::OkStatus();
  loaded_ = FragmentId(-1);
  values_ = FloatBuffer(model_.layout.fragment(fragment).size);
  SDP_RETURN_IF_ERROR(model_.read(fragment, values_.span()));
  loaded_ = fragment;
  return absl::OkStatus();
}

float TensorStream::Factor(const TensorSpec& tensor, FragmentId fragment) const {
  if (!tensor.ends_branch) return 1;
  const UnitId unit = model_.layout.fragment(fragment).unit;
  return static_cast<float>(model_.factors[static_cast<size_t>(unit.value())]);
}

}  // namespace sdp

#include "common/export/tensor_stream.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace sdp {

TensorStream::TensorStream(const StoredModel& model)
    : model_(model), places_(model.catalog.tensors.size()) {
  for (int id = 0; id < model.layout.fragments(); ++id) {
    for (const Piece& piece : model.layout.pieces(FragmentId(id))) {
      places_[static_cast<size_t>(piece.tensor)].push_back({FragmentId(id), piece});
    }
  }
  for (std::vector<Place>& places : places_) {
    std::stable_sort(places.begin(), places.end(), [](const Place& a, const Place& b) {
      return a.piece.tensor_offset < b.piece.tensor_offset;
    });
  }
}

absl::Status TensorStream::Read(int tensor,
                                const std::function<absl::Status(absl::Span<const float>)>& take) {
  constexpr size_t kChunk = 1 << 16;  // elements that are multiplied at once
  const TensorSpec& spec = model_.catalog.tensors[static_cast<size_t>(tensor)];
  std::vector<float> product;
  int64_t next = 0;
  for (const Place& place : places_[static_cast<size_t>(tensor)]) {
    if (place.piece.tensor_offset != next) {
      return absl::InternalError(absl::StrCat("no fragment has element ", next, " of ", spec.name));
    }
    next += place.piece.size;
    SDP_RETURN_IF_ERROR(Load(place.fragment));
    absl::Span<const float> values = absl::MakeConstSpan(values_.span())
                                         .subspan(static_cast<size_t>(place.piece.fragment_offset),
                                                  static_cast<size_t>(place.piece.size));
    const UnitId unit = model_.layout.fragment(place.fragment).unit;
    const auto factor = static_cast<float>(model_.factors[static_cast<size_t>(unit.value())]);
    if (!spec.ends_branch || factor == 1) {
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

absl::Status TensorStream::Load(FragmentId fragment) {
  if (fragment == loaded_) return absl::OkStatus();
  loaded_ = FragmentId(-1);
  values_ = FloatBuffer(model_.layout.fragment(fragment).size);
  SDP_RETURN_IF_ERROR(model_.read(fragment, values_.span()));
  loaded_ = fragment;
  return absl::OkStatus();
}

}  // namespace sdp

#include "common/model/initial_values.h"

#include <algorithm>
#include <cassert>

#include "common/base/hash.h"
#include "common/base/normal.h"

namespace sdp {
namespace {

// Elements 2k and 2k + 1 of a tensor are the k-th pair of its stream, wherever a piece of it
// begins.
void FillNormal(uint64_t seed, uint64_t stream, double stddev, int64_t begin,
                absl::Span<float> values) {
  const int64_t end = begin + static_cast<int64_t>(values.size());
  for (int64_t pair = begin / 2; 2 * pair < end; ++pair) {
    const NormalPair normals = StandardNormals(seed, stream, static_cast<uint64_t>(pair));
    const int64_t i = 2 * pair - begin;
    if (i >= 0) values[static_cast<size_t>(i)] = static_cast<float>(stddev * normals.first);
    if (2 * pair + 1 < end) {
      values[static_cast<size_t>(i + 1)] = static_cast<float>(stddev * normals.second);
    }
  }
}

}  // namespace

void FillInitialValues(const Catalog& catalog, const Layout& layout, FragmentId fragment,
                       uint64_t seed, absl::Span<float> values) {
  assert(static_cast<int64_t>(values.size()) == layout.fragment(fragment).size);
  for (const Piece& piece : layout.pieces(fragment)) {
    const TensorSpec& tensor = catalog.tensors[static_cast<size_t>(piece.tensor)];
    const absl::Span<float> part =
        values.subspan(static_cast<size_t>(piece.fragment_offset), static_cast<size_t>(piece.size));
    switch (tensor.initial.kind) {
      case InitialValues::Kind::kZeros:
        std::fill(part.begin(), part.end(), 0.0f);
        break;
      case InitialValues::Kind::kOnes:
        std::fill(part.begin(), part.end(), 1.0f);
        break;
      case InitialValues::Kind::kNormal:
        FillNormal(seed, Hash64(tensor.name), tensor.initial.stddev, piece.tensor_offset, part);
        break;
    }
  }
}

}  // namespace sdp

#include "server/shard/logic/tree_sum.h"

#include <cassert>
#include <utility>

#include "server/shard/logic/vectorize.h"

namespace sdp {
namespace {

SDP_VECTORIZE void AddLoop(float* sum, float weight, const float* more, float more_weight,
                           int64_t size) {
  SDP_INDEPENDENT
  for (int64_t i = 0; i < size; ++i) sum[i] = sum[i] * weight + more[i] * more_weight;
}

// Divisions, not products with the reciprocal: with one holder the mean is its gradient up to one
// rounding.
SDP_VECTORIZE void DivideLoop(float* sum, float weight, float n, int64_t size) {
  SDP_INDEPENDENT
  for (int64_t i = 0; i < size; ++i) sum[i] = sum[i] * weight / n;
}

SDP_VECTORIZE void AddDivideLoop(float* sum, float weight, const float* more, float more_weight,
                                 float n, int64_t size) {
  SDP_INDEPENDENT
  for (int64_t i = 0; i < size; ++i) sum[i] = (sum[i] * weight + more[i] * more_weight) / n;
}

}  // namespace

TreeSum::TreeSum(int leaves) : open_leaves_(leaves) {
  assert(leaves >= 1);
  for (size_t width = static_cast<size_t>(leaves);; width = (width + 1) / 2) {
    known_.emplace_back(width, false);
    sums_.emplace_back(width);
    if (width == 1) break;
  }
}

void TreeSum::Add(int leaf, FloatBuffer gradient, int64_t n) {
  const size_t index = static_cast<size_t>(leaf);
  assert(!known_[0][index]);
  if (n > 0) {
    sums_[0][index] = {std::move(gradient), static_cast<float>(n)};
    terms_ += n;
  }
  known_[0][index] = true;
  --open_leaves_;
  Settle(0, index);
}

void TreeSum::Settle(size_t level, size_t index) {
  // The last merge waits for TakeMean.
  for (; level + 2 < known_.size(); ++level, index /= 2) {
    const size_t left = index & ~size_t{1}, right = left + 1;
    const bool has_right = right < known_[level].size();
    if (!known_[level][left] || (has_right && !known_[level][right])) return;
    Sum sum = std::move(sums_[level][left]);
    if (has_right && !sums_[level][right].values.empty()) {
      Sum more = std::move(sums_[level][right]);
      if (sum.values.empty()) {
        sum = std::move(more);
      } else {
        assert(sum.values.size() == more.values.size());
        AddLoop(sum.values.data(), sum.weight, more.values.data(), more.weight, sum.values.size());
        sum.weight = 1;
      }
    }
    sums_[level + 1][index / 2] = std::move(sum);
    known_[level + 1][index / 2] = true;
  }
}

int64_t TreeSum::bytes() const {
  int64_t bytes = 0;
  for (const auto& level : sums_) {
    for (const Sum& sum : level) bytes += sum.values.bytes();
  }
  return bytes;
}

FloatBuffer TreeSum::TakeMean() {
  assert(complete());
  // The root's children, or the only leaf.
  std::vector<Sum>& last = sums_[sums_.size() == 1 ? 0 : sums_.size() - 2];
  Sum sum = std::move(last[0]);
  Sum more;
  if (last.size() > 1) more = std::move(last[1]);
  if (sum.values.empty()) std::swap(sum, more);
  if (sum.values.empty()) return FloatBuffer();
  const float n = static_cast<float>(terms_);
  if (more.values.empty()) {
    DivideLoop(sum.values.data(), sum.weight, n, sum.values.size());
  } else {
    AddDivideLoop(sum.values.data(), sum.weight, more.values.data(), more.weight, n,
                  sum.values.size());
  }
  return std::move(sum.values);
}

}  // namespace sdp

#include "server/shard/logic/tree_sum.h"

#include <cassert>
#include <utility>

namespace sdp {
namespace {

void Scale(FloatBuffer& values, float factor) {
  float* v = values.data();
  for (int64_t i = 0; i < values.size(); ++i) v[i] *= factor;
}

void AddTo(FloatBuffer& sum, const FloatBuffer& more) {
  assert(sum.size() == more.size());
  float* s = sum.data();
  const float* m = more.data();
  for (int64_t i = 0; i < sum.size(); ++i) s[i] += m[i];
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
    Scale(gradient, static_cast<float>(n));
    sums_[0][index] = std::move(gradient);
    terms_ += n;
  }
  known_[0][index] = true;
  --open_leaves_;
  Settle(0, index);
}

void TreeSum::Settle(size_t level, size_t index) {
  for (; level + 1 < known_.size(); ++level, index /= 2) {
    const size_t left = index & ~size_t{1}, right = left + 1;
    const bool has_right = right < known_[level].size();
    if (!known_[level][left] || (has_right && !known_[level][right])) return;
    FloatBuffer sum = std::move(sums_[level][left]);
    if (has_right && !sums_[level][right].empty()) {
      FloatBuffer more = std::move(sums_[level][right]);
      if (sum.empty()) {
        sum = std::move(more);
      } else {
        AddTo(sum, more);
      }
    }
    sums_[level + 1][index / 2] = std::move(sum);
    known_[level + 1][index / 2] = true;
  }
}

int64_t TreeSum::bytes() const {
  int64_t bytes = 0;
  for (const auto& level : sums_) {
    for (const FloatBuffer& sum : level) bytes += sum.bytes();
  }
  return bytes;
}

FloatBuffer TreeSum::TakeMean() {
  assert(complete());
  FloatBuffer mean = std::move(sums_.back()[0]);
  if (!mean.empty()) {
    // A division, not a product with the reciprocal: with one holder the mean is its gradient up to
    // one rounding.
    const float n = static_cast<float>(terms_);
    float* v = mean.data();
    for (int64_t i = 0; i < mean.size(); ++i) v[i] /= n;
  }
  return mean;
}

}  // namespace sdp

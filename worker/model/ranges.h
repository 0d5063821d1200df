#pragma once

#include <cstdint>
#include <vector>

#include "ATen/ATen.h"

namespace sdp {

// Runs of a dimension's indices, as autograd functions keep them: begin, size, begin, size, ...,
// ascending and apart from each other. Empty: all indices.
using Ranges = std::vector<int64_t>;

// x at these indices of a dimension, side by side in new memory, contiguous; x itself for all.
inline at::Tensor Select(const at::Tensor& x, int64_t dim, const Ranges& ranges) {
  if (ranges.empty()) return x;
  std::vector<at::Tensor> parts;
  for (size_t i = 0; i < ranges.size(); i += 2)
    parts.push_back(x.narrow(dim, ranges[i], ranges[i + 1]));
  return at::cat(parts, dim);
}

// Of a weight and what is trained of it: what gets the gradient.
inline const at::Tensor& GradientOf(const at::Tensor& weight, const at::Tensor& leaf) {
  return leaf.defined() ? leaf : weight;
}

}  // namespace sdp

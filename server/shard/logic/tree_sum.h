#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "common/base/float_buffer.h"

namespace sdp {

// Sums weighted vectors of p holders by a fixed binary tree over their positions: leaves 2k and
// 2k+1 merge first, then pairs of pairs. Siblings merge as soon as both are known, so the bits do
// not depend on the order of arrival and about log2(p) buffers are alive when holders come in
// order. A leaf without terms (or skipped) is left out, as if its parent had one child. Weights are
// applied, and the last sum divided, in the pass over memory that needs the numbers anyway. Shapes:
// leaves [n] f32. Threads: confined to one.
class TreeSum {
 public:
  explicit TreeSum(int leaves);

  // Adds n * gradient at a leaf; n = 0 (gradient ignored) leaves it out. Precondition: the leaf is
  // still open.
  void Add(int leaf, FloatBuffer gradient, int64_t n);

  bool has(int leaf) const { return known_[0][static_cast<size_t>(leaf)]; }
  bool complete() const { return open_leaves_ == 0; }
  int open_leaves() const { return open_leaves_; }
  int64_t terms() const { return terms_; }
  int64_t bytes() const;  // held now

  // The mean: (sum of n_i g_i) / (sum of n_i); empty if all n_i are 0. Precondition: complete.
  // Leaves nothing behind.
  FloatBuffer TakeMean();

 private:
  struct Sum {
    FloatBuffer values;
    float weight = 1;  // of a leaf: what its values are still to be multiplied by
  };
  void Settle(size_t level, size_t index);

  // Level 0 has the leaves; an entry of level l + 1 covers two of level l. known_: everything below
  // is decided.
  std::vector<std::vector<bool>> known_;
  std::vector<std::vector<Sum>> sums_;
  int open_leaves_;
  int64_t terms_ = 0;
};

}  // namespace sdp

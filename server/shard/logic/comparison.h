#pragma once

#include <optional>
#include <utility>

#include "common/base/float_buffer.h"
#include "common/protocol/messages.h"
#include "server/shard/logic/tree_sum.h"

namespace sdp {

// One fragment's two gradients in a step that is diagnosed: the mean over its holders, of the round
// that makes the next version, and the dense one over all members. Whichever is there first waits
// for the other; the round knows nothing of it. Shapes: [n] f32.
class Comparison {
 public:
  explicit Comparison(int members) : sum_(members) {}

  bool has(int member) const { return sum_.has(member); }
  // As TreeSum::Add.
  void AddDense(int member, FloatBuffer gradient, int64_t terms) {
    sum_.Add(member, std::move(gradient), terms);
    if (sum_.complete()) dense_ = sum_.TakeMean();
  }
  // What the round is done with; empty: nobody had samples.
  void SetMean(FloatBuffer mean) { mean_ = std::move(mean); }

  bool complete() const { return dense_.has_value() && mean_.has_value(); }
  // Precondition: complete.
  GradientComparison Result() const;
  int64_t bytes() const;

 private:
  TreeSum sum_;
  std::optional<FloatBuffer> dense_, mean_;
};

}  // namespace sdp

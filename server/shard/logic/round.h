#pragma once

#include <utility>
#include <vector>

#include "common/base/float_buffer.h"
#include "server/shard/logic/tree_sum.h"

namespace sdp {

// One fragment's aggregation in one step: open until every holder, by identity, has contributed;
// then `mean` waits for the update (which clipping may delay).
struct Round {
  explicit Round(int holders) : sum(holders) {}

  // Ends the aggregation. Precondition: sum.complete().
  void Close() {
    closed = true;
    mean = sum.TakeMean();
  }
  int64_t bytes() const { return sum.bytes() + mean.bytes(); }

  TreeSum sum;
  bool closed = false;
  FloatBuffer mean;             // [n] once closed; empty if nobody had samples
  std::vector<double> squares;  // [holders] of their gradients, in a step that is diagnosed
};

}  // namespace sdp

#pragma once

#include <cstdint>
#include <vector>

namespace sdp {

// Which sample stands at each position of a run's endless sequence of samples. Positions count over
// all epochs: epoch e of n samples is positions [e n, (e + 1) n). Without shuffling position p is
// sample p mod n; with it each epoch is a permutation that is computed per position, without an
// array.   Threads: immutable.
//
// The permutation of epoch e (part of the format of a run: a checkpoint's cursor means nothing
// without it), where P(c, k) is Philox4x32-10 of counter c and key k, and the low word comes first:
//   h     smallest integer >= 1 with 4^h >= n
//   key   first two words of P({e low, e high, 0x53414D50, 0}, {seed low, seed high})
//   E(x)  Feistel network over [0, 4^h): start with L = x div 2^h, R = x mod 2^h;
//         for r = 0..7: (L, R) = (R, L xor (first word of P({R, r, 0, 0}, key) mod 2^h));
//         the result is 2^h L + R
// The sample at position i of the epoch is the first of E(i), E(E(i)), ... that is below n (fewer
// than 4 applications in the mean, for n > 4).
//
// A reshuffle at position r changes the order from there on: in each epoch the m positions from
// max(r, the epoch's first) on are permuted among themselves, by the same E with h of m and, for
// the k-th reshuffle of the run, counted from 1, the key of P({e low, e high, 0x53414D50, k}, ...).
// Where the i-th of them was before, the one that E takes i to is then. So in an epoch every sample
// still has one position, whatever had been taken of it before.
class SampleOrder {
 public:
  // `reshuffles`: their positions, in the order in which they were made. Precondition: 1 <= samples
  // <= 2^62; reshuffles only with shuffle.
  SampleOrder(uint64_t seed, int64_t samples, bool shuffle, std::vector<int64_t> reshuffles = {});

  int64_t samples() const { return samples_; }
  // Precondition: position >= 0.
  int64_t Sample(int64_t position) const;

 private:
  const uint64_t seed_;
  const int64_t samples_;
  const bool shuffle_;
  const std::vector<int64_t> reshuffles_;
};

}  // namespace sdp

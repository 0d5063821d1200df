#pragma once

#include <cstdint>

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
class SampleOrder {
 public:
  // Precondition: 1 <= samples <= 2^62.
  SampleOrder(uint64_t seed, int64_t samples, bool shuffle);

  int64_t samples() const { return samples_; }
  // Precondition: position >= 0.
  int64_t Sample(int64_t position) const;

 private:
  const uint64_t seed_;
  const int64_t samples_;
  const bool shuffle_;
  int half_bits_ = 1;  // h
};

}  // namespace sdp

#include "common/data/sample_order.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <utility>

#include "common/base/random.h"

namespace sdp {
namespace {

constexpr int kRounds = 8;
constexpr uint32_t kPurpose = 0x53414D50;  // "SAMP": nothing else draws from these counters.

std::array<uint32_t, 2> EpochKey(uint64_t seed, uint64_t epoch, uint32_t reshuffle) {
  const auto words = Philox(
      {static_cast<uint32_t>(epoch), static_cast<uint32_t>(epoch >> 32), kPurpose, reshuffle},
      {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  return {words[0], words[1]};
}

uint64_t Feistel(uint64_t x, int half_bits, std::array<uint32_t, 2> key) {
  const uint64_t mask = (uint64_t{1} << half_bits) - 1;
  uint64_t left = x >> half_bits, right = x & mask;
  for (uint32_t round = 0; round < kRounds; ++round) {
    const uint64_t mixed = Philox({static_cast<uint32_t>(right), round, 0, 0}, key)[0] & mask;
    const uint64_t next = left ^ mixed;
    left = right;
    right = next;
  }
  return (left << half_bits) | right;
}

// A permutation of [0, n), at x.
int64_t Permuted(int64_t x, int64_t n, std::array<uint32_t, 2> key) {
  int half_bits = 1;
  while ((int64_t{1} << (2 * half_bits)) < n) ++half_bits;
  auto y = static_cast<uint64_t>(x);
  do {
    y = Feistel(y, half_bits, key);
  } while (y >= static_cast<uint64_t>(n));
  return static_cast<int64_t>(y);
}

}  // namespace

SampleOrder::SampleOrder(uint64_t seed, int64_t samples, bool shuffle,
                         std::vector<int64_t> reshuffles)
    : seed_(seed), samples_(samples), shuffle_(shuffle), reshuffles_(std::move(reshuffles)) {
  assert(samples >= 1 && samples <= int64_t{1} << 62);
  assert(shuffle || reshuffles_.empty());
}

int64_t SampleOrder::Sample(int64_t position) const {
  assert(position >= 0);
  const int64_t epoch = position / samples_, first = epoch * samples_;
  if (!shuffle_) return position - first;
  const auto key = [&](size_t reshuffle) {
    return EpochKey(seed_, static_cast<uint64_t>(epoch), static_cast<uint32_t>(reshuffle));
  };
  // From the newest to the oldest: each leads to a position of the order before it.
  for (size_t k = reshuffles_.size(); k > 0; --k) {
    const int64_t from = std::max(reshuffles_[k - 1], first);
    if (position < from) continue;
    position = from + Permuted(position - from, first + samples_ - from, key(k));
  }
  return Permuted(position - first, samples_, key(0));
}

}  // namespace sdp

#include "common/data/sample_order.h"

#include <array>
#include <cassert>

#include "common/base/random.h"

namespace sdp {
namespace {

constexpr int kRounds = 8;
constexpr uint32_t kPurpose = 0x53414D50;  // "SAMP": nothing else draws from these counters.

std::array<uint32_t, 2> EpochKey(uint64_t seed, uint64_t epoch) {
  const auto words =
      Philox({static_cast<uint32_t>(epoch), static_cast<uint32_t>(epoch >> 32), kPurpose, 0},
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

}  // namespace

SampleOrder::SampleOrder(uint64_t seed, int64_t samples, bool shuffle)
    : seed_(seed), samples_(samples), shuffle_(shuffle) {
  assert(samples >= 1 && samples <= int64_t{1} << 62);
  while ((int64_t{1} << (2 * half_bits_)) < samples) ++half_bits_;
}

int64_t SampleOrder::Sample(int64_t position) const {
  assert(position >= 0);
  const uint64_t n = static_cast<uint64_t>(samples_);
  uint64_t x = static_cast<uint64_t>(position) % n;
  if (!shuffle_) return static_cast<int64_t>(x);
  const auto key = EpochKey(seed_, static_cast<uint64_t>(position) / n);
  do {
    x = Feistel(x, half_bits_, key);
  } while (x >= n);
  return static_cast<int64_t>(x);
}

}  // namespace sdp

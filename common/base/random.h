#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

// Random numbers as pure functions of what they are for, so that any process draws the same ones in
// any order.
namespace sdp {

// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC
// 2011).
std::array<uint32_t, 4> Philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// The `index`-th 64-bit number of the stream (seed, stream).
uint64_t RandomBits(uint64_t seed, uint64_t stream, uint64_t index);

// A sequential view of one stream, for shuffles. Threads: none shared.
class RandomStream {
 public:
  RandomStream(uint64_t seed, uint64_t stream) : seed_(seed), stream_(stream) {}
  uint64_t Next() { return RandomBits(seed_, stream_, index_++); }
  // Uniform in [0, bound), without modulo bias. bound >= 1.
  uint64_t Below(uint64_t bound);

 private:
  const uint64_t seed_;
  const uint64_t stream_;
  uint64_t index_ = 0;
};

// In-place Fisher-Yates shuffle of a random-access container.
template <typename Container>
void Shuffle(Container& items, RandomStream& random) {
  for (size_t i = items.size(); i > 1; --i) {
    using std::swap;
    swap(items[i - 1], items[random.Below(i)]);
  }
}

}  // namespace sdp

#include "common/base/allocated.h"

#include <atomic>

namespace sdp {
namespace {

constinit std::atomic<int64_t> now_bytes{0};
constinit std::atomic<int64_t> peak_bytes{0};

}  // namespace

AllocatedBytes Allocated() {
  // The peak second: it is never below a `now` read before.
  const int64_t now = now_bytes.load(std::memory_order_relaxed);
  return {now, peak_bytes.load(std::memory_order_relaxed)};
}

void CountAllocated(int64_t bytes) {
  const int64_t now = now_bytes.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  int64_t peak = peak_bytes.load(std::memory_order_relaxed);
  while (now > peak && !peak_bytes.compare_exchange_weak(peak, now, std::memory_order_relaxed)) {
  }
}

void CountFreed(int64_t bytes) { now_bytes.fetch_sub(bytes, std::memory_order_relaxed); }

void RestartAllocatedPeak() {
  peak_bytes.store(now_bytes.load(std::memory_order_relaxed), std::memory_order_relaxed);
}

}  // namespace sdp

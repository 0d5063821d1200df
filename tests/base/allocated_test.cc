#include "common/base/allocated.h"

#include <gtest/gtest.h>

#include <numeric>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/float_buffer.h"

namespace sdp {
namespace {

TEST(AllocatedTest, Buffer_CountsFromBirthToDeath) {
  const int64_t before = Allocated().now;
  {
    FloatBuffer a(1000);
    EXPECT_EQ(Allocated().now, before + 4000);
    FloatBuffer b = std::move(a);
    EXPECT_EQ(Allocated().now, before + 4000);
    b = FloatBuffer(10);
    EXPECT_EQ(Allocated().now, before + 40);
    const FloatBuffer copy = b.Clone();
    EXPECT_EQ(Allocated().now, before + 80);
    b = FloatBuffer();
    EXPECT_EQ(Allocated().now, before + 40);
  }
  EXPECT_EQ(Allocated().now, before);
}

TEST(AllocatedTest, Peak_StaysAndRestarts) {
  const int64_t before = Allocated().now;
  RestartAllocatedPeak();
  EXPECT_EQ(Allocated().peak, before);
  { const FloatBuffer a(1000); }
  const FloatBuffer b(500);
  EXPECT_EQ(Allocated().peak, before + 4000);
  RestartAllocatedPeak();
  EXPECT_EQ(Allocated().peak, before + 2000);
}

TEST(AllocatedTest, AGpusMemory_HasItsOwnLedger) {
  RestartAllocatedPeak();
  const int64_t host = Allocated().now;
  CountAllocated(MemoryKind::kParameters, 1000, MemoryPlace::kGpu);
  CountFreed(MemoryKind::kParameters, 600, MemoryPlace::kGpu);
  EXPECT_EQ(Allocated().peak, host);
  EXPECT_EQ(Allocated(MemoryPlace::kGpu).now, 400);
  EXPECT_EQ(Allocated(MemoryPlace::kGpu).peak, 1000);
  const MemoryLedger ledger = AllocatedByKind(MemoryPlace::kGpu);
  EXPECT_EQ(ledger.now[static_cast<size_t>(MemoryKind::kParameters)], 400);
  EXPECT_EQ(ledger.peak[static_cast<size_t>(MemoryKind::kParameters)], 1000);
  CountFreed(MemoryKind::kParameters, 400, MemoryPlace::kGpu);
  RestartAllocatedPeak();
  EXPECT_EQ(Allocated(MemoryPlace::kGpu).peak, 0);
}

TEST(AllocatedTest, FreedByAnotherThread_Counts) {
  const int64_t before = Allocated().now;
  FloatBuffer buffer(1000);
  std::thread([gone = std::move(buffer)] {}).join();
  EXPECT_EQ(Allocated().now, before);
}

int64_t Sum(const BytesByKind& bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), int64_t{0});
}

TEST(AllocatedTest, Kinds_AddUp_NowAndAtThePeak) {
  RestartAllocatedPeak();
  const MemoryLedger before = AllocatedByKind();
  const auto kind = [](const BytesByKind& bytes, MemoryKind of) {
    return bytes[static_cast<size_t>(of)];
  };
  {
    const FloatBuffer buffer(100);
    CountAllocated(MemoryKind::kActivations, 1000);
    EXPECT_EQ(Sum(AllocatedByKind().now), Allocated().now);
  }
  CountAllocated(MemoryKind::kGradients, 300);
  const MemoryLedger ledger = AllocatedByKind();
  EXPECT_EQ(Sum(ledger.now), Allocated().now);
  EXPECT_EQ(Sum(ledger.peak), Allocated().peak);
  const auto added = [&](MemoryKind of) { return kind(ledger.now, of) - kind(before.now, of); };
  EXPECT_EQ(added(MemoryKind::kCommunication), 0);
  EXPECT_EQ(added(MemoryKind::kGradients), 300);
  // The peak was before the gradient came.
  EXPECT_EQ(kind(ledger.peak, MemoryKind::kCommunication),
            kind(before.now, MemoryKind::kCommunication) + 400);
  EXPECT_EQ(kind(ledger.peak, MemoryKind::kGradients), kind(before.now, MemoryKind::kGradients));
  CountFreed(MemoryKind::kActivations, 1000);
  CountFreed(MemoryKind::kGradients, 300);
  EXPECT_EQ(AllocatedByKind().now, before.now);
}

TEST(AllocatedTest, Scopes_Nest_AndBelongToAThread) {
  EXPECT_EQ(MemoryScope::Current(), MemoryKind::kOther);
  {
    const MemoryScope outer(MemoryKind::kActivations);
    {
      const MemoryScope inner(MemoryKind::kGradients);
      EXPECT_EQ(MemoryScope::Current(), MemoryKind::kGradients);
      std::thread([] { EXPECT_EQ(MemoryScope::Current(), MemoryKind::kOther); }).join();
    }
    EXPECT_EQ(MemoryScope::Current(), MemoryKind::kActivations);
  }
  EXPECT_EQ(MemoryScope::Current(), MemoryKind::kOther);
}

// Whatever the threads do in between: nothing is lost, and the peak is one that was reached.
TEST(AllocatedTest, ManyThreads_NothingIsLost) {
  constexpr int kThreads = 4;
  constexpr int64_t kBytes = 400;
  const int64_t before = Allocated().now;
  RestartAllocatedPeak();
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([] {
      for (int round = 0; round < 10000; ++round) const FloatBuffer buffer(kBytes / 4);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(Allocated().now, before);
  EXPECT_GE(Allocated().peak, before + kBytes);
  EXPECT_LE(Allocated().peak, before + kThreads * kBytes);
  EXPECT_EQ((Allocated().peak - before) % kBytes, 0);
}

}  // namespace
}  // namespace sdp

#include "common/base/allocated.h"

#include <gtest/gtest.h>

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

TEST(AllocatedTest, FreedByAnotherThread_Counts) {
  const int64_t before = Allocated().now;
  FloatBuffer buffer(1000);
  std::thread([gone = std::move(buffer)] {}).join();
  EXPECT_EQ(Allocated().now, before);
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

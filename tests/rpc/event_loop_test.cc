#include "common/rpc/event_loop.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "common/rpc/made_on.h"
#include "tests/base/signal.h"

namespace sdp {
namespace {

TEST(EventLoopTest, Stop_DropsWhatHasNotBegun) {
  EventLoop loop("test");
  const auto held = std::make_shared<int>(0);
  loop.PostAt(absl::Now() + absl::Hours(1), [held] { FAIL(); });
  loop.Stop();
  loop.Post([held] { FAIL(); });
  loop.PostAt(absl::Now(), [held] { FAIL(); });
  loop.Stop();
}

TEST(EventLoopTest, Post_RunsInOrderOnOneThread) {
  EventLoop loop("test");
  std::vector<int> order;
  std::thread::id thread;
  Signal done;
  loop.Post([&] { thread = std::this_thread::get_id(); });
  for (int i = 0; i < 1000; ++i) loop.Post([&order, i] { order.push_back(i); });
  loop.Post([&] {
    EXPECT_EQ(thread, std::this_thread::get_id());
    loop.Post([&] { done.Set(); });  // from the loop itself
  });
  ASSERT_TRUE(done.Wait());
  ASSERT_EQ(order.size(), 1000u);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
}

TEST(EventLoopTest, Post_FromManyThreads_LosesNothing) {
  EventLoop loop("test");
  int count = 0;
  Signal done;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 5000; ++i) {
        loop.Post([&] {
          if (++count == 20'000) done.Set();
        });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(done.Wait());
}

TEST(EventLoopTest, PostAt_RunsByTime_AlsoWhenAnEarlierOneComesLater) {
  EventLoop loop("test");
  std::vector<int> order;
  Signal done;
  const absl::Time now = absl::Now();
  loop.PostAt(now + absl::Milliseconds(60), [&] {
    order.push_back(2);
    done.Set();
  });
  loop.PostAt(now + absl::Milliseconds(20), [&] {
    EXPECT_GE(absl::Now(), now + absl::Milliseconds(20));
    order.push_back(1);
  });
  loop.PostAt(now - absl::Seconds(1), [&] { order.push_back(0); });
  ASSERT_TRUE(done.Wait());
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2}));
}

// Whoever asks waits for a loop that is busy, though not for ever.
TEST(MadeOnTest, IsWhatTheLoopMade_OrNothingInTime) {
  EventLoop loop("test");
  EXPECT_EQ(MadeOn<int>(&loop, absl::Seconds(30), [] { return 7; }), 7);
  Signal go_on;
  loop.Post([&] { go_on.Wait(); });
  EXPECT_EQ(MadeOn<int>(&loop, absl::Milliseconds(10), [] { return 7; }), std::nullopt);
  go_on.Set();
  loop.Stop();
  EXPECT_EQ(MadeOn<int>(&loop, absl::Milliseconds(10), [] { return 7; }), std::nullopt);
}

}  // namespace
}  // namespace sdp

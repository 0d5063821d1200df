#include "common/rpc/acceptor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/time/clock.h"
#include "common/base/mutex.h"

namespace sdp {
namespace {

int TakenAt(absl::Time now, ConnectionPace* pace) {
  int taken = 0;
  while (pace->Take(now)) ++taken;
  return taken;
}

TEST(ConnectionPaceTest, ABurstAtOnce_ThenSoManyASecond) {
  ConnectionPace pace({.burst = 5, .per_sec = 2});
  const absl::Time start = absl::UnixEpoch();
  EXPECT_EQ(TakenAt(start, &pace), 5);
  EXPECT_EQ(TakenAt(start + absl::Milliseconds(499), &pace), 0);
  EXPECT_EQ(TakenAt(start + absl::Milliseconds(501), &pace), 1);
  EXPECT_EQ(TakenAt(start + absl::Milliseconds(2001), &pace), 3);
  EXPECT_EQ(TakenAt(start + absl::Hours(1), &pace), 5);  // no more than a burst gathers
}

TEST(ConnectionPaceTest, ClockSetBack_AddsNothing_AndGoesOnFromThere) {
  ConnectionPace pace({.burst = 2, .per_sec = 1});
  const absl::Time start = absl::UnixEpoch();
  EXPECT_EQ(TakenAt(start, &pace), 2);
  EXPECT_EQ(TakenAt(start - absl::Hours(1), &pace), 0);
  EXPECT_EQ(TakenAt(start - absl::Hours(1) + absl::Milliseconds(1001), &pace), 1);
}

// In any 10 s, the longest that a handshake may last.
TEST(ConnectionPaceTest, ByDefault_BoundsUnfinishedHandshakes_AndLetsAThousandWorkersStart) {
  ConnectionPace pace({});
  int taken = 0;
  absl::Duration until_all = absl::InfiniteDuration();
  for (absl::Duration t; t < absl::Seconds(10); t += absl::Milliseconds(100)) {
    taken += TakenAt(absl::UnixEpoch() + t, &pace);
    if (taken >= 2000) until_all = std::min(until_all, t);
  }
  EXPECT_LE(taken, 8192);
  EXPECT_LE(until_all, absl::Seconds(6));
}

class Taken {
 public:
  Acceptor::Take Take() {
    return [this](int connection) {
      close(connection);
      MutexLock lock(&mutex_);
      ++count_;
    };
  }
  // False: not within 20 s.
  bool Await(int count) ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(&mutex_);
    const auto all = [this, count]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return count_ >= count; };
    return mutex_.AwaitWithDeadline(absl::Condition(&all), absl::Now() + absl::Seconds(20));
  }

 private:
  Mutex mutex_;
  int count_ ABSL_GUARDED_BY(mutex_) = 0;
};

void Connect(const std::string& address, std::vector<int>* sockets) {
  int port = 0;
  ASSERT_TRUE(absl::SimpleAtoi(address.substr(address.rfind(':') + 1), &port));
  sockaddr_in to = {};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  to.sin_port = htons(static_cast<uint16_t>(port));
  sockets->push_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(connect(sockets->back(), reinterpret_cast<const sockaddr*>(&to), sizeof(to)), 0);
}

TEST(AcceptorTest, BeyondThePace_ConnectionsWait_AndAreTakenInTime) {
  Taken taken;
  const auto acceptor = Acceptor::Listen("127.0.0.1:0", {.burst = 3, .per_sec = 4}).value();
  std::vector<int> sockets;
  const absl::Time begin = absl::Now();
  acceptor->Start(taken.Take());
  for (int i = 0; i < 6; ++i) Connect(acceptor->address(), &sockets);
  EXPECT_TRUE(taken.Await(6));
  EXPECT_GE(absl::Now() - begin,
            absl::Milliseconds(700));  // three more, a quarter of a second each
  for (const int socket : sockets) close(socket);
}

TEST(AcceptorTest, WhileConnectionsWait_ItStopsAtOnce) {
  Taken taken;
  const auto acceptor = Acceptor::Listen("127.0.0.1:0", {.burst = 1, .per_sec = 1e-6}).value();
  std::vector<int> sockets;
  acceptor->Start(taken.Take());
  for (int i = 0; i < 2; ++i) Connect(acceptor->address(), &sockets);
  EXPECT_TRUE(taken.Await(1));
  const absl::Time begin = absl::Now();
  acceptor->Stop();
  EXPECT_LT(absl::Now() - begin, absl::Seconds(10));
  for (const int socket : sockets) close(socket);
}

}  // namespace
}  // namespace sdp

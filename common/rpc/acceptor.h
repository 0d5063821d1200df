#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace sdp {

// How many connections may begin: `burst` at once, and `per_sec` for long. A stranger's TLS
// handshake, to the point where its certificate is refused, costs 1.7 ms of a processor and one
// that is never finished 70 KiB for 10 s (README has the machine): by default a flood costs at most
// a third of the processors, and on one core 210 MiB; a thousand workers that start together, with
// two connections each, are in after 5 s.
class ConnectionPace {
 public:
  struct Limits {
    double burst = 1024;
    double per_sec = 200;  // of one core
  };
  static Limits OfThisMachine();
  explicit ConnectionPace(const Limits& limits) : limits_(limits), left_(limits.burst) {}

  const Limits& limits() const { return limits_; }

  // Whether one more may begin at `now`; if so, it counts as begun.
  bool Take(absl::Time now);

 private:
  const Limits limits_;
  double left_;
  absl::Time then_ = absl::InfinitePast();  // when `left_` was counted
};

// Acceptor listens on HOST:PORT and hands over the connections that come. The listener of gRPC 1.51
// ends for good once a connection finds no free descriptor, so whoever opens enough of them would
// silence a server. This one closes those that come while descriptors are short, which leaves some
// for files and for the connections this process makes, and goes on.
// Connections beyond the pace wait in the kernel, where they cost this process nothing; closing
// them would take it a call each, at whatever rate they come. No more wait there than are taken
// before a client gives its attempt up (5 s), or all that is taken would be gone already; of
// those beyond, the client's kernel asks again after a second.
// Threads: one of its own, on which `take` is called.
class Acceptor {
 public:
  // Owns the connection's descriptor, which does not block.
  using Take = std::function<void(int connection)>;

  // On each address that HOST stands for; port 0: a free one. Connections wait until Start.
  // Unavailable - an address is in use or not this machine's.
  static absl::StatusOr<std::unique_ptr<Acceptor>> Listen(
      const std::string& address,
      const ConnectionPace::Limits& pace = ConnectionPace::OfThisMachine());
  ~Acceptor();
  Acceptor(const Acceptor&) = delete;
  Acceptor& operator=(const Acceptor&) = delete;

  // With the port it got.
  const std::string& address() const { return address_; }

  void Start(Take take);
  // Listens no more; `take` has returned for the last time. Repeating it does nothing.
  void Stop();

 private:
  Acceptor(int wake, const ConnectionPace::Limits& pace) : wake_(wake), pace_(pace) {}
  void Run();
  // False: there is none, or none can be taken now.
  bool AcceptOne(int listener);

  const int wake_;  // eventfd, for Stop
  std::string address_;
  std::vector<int> listeners_;
  Take take_;
  ConnectionPace pace_;  // of the thread
  std::thread thread_;
};

}  // namespace sdp

#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"

namespace sdp {

// Acceptor listens on HOST:PORT and hands over the connections that come. The listener of gRPC 1.51
// ends for good once a connection finds no free descriptor, so whoever opens enough of them would
// silence a server. This one closes those that come while descriptors are short, which leaves some
// for files and for the connections this process makes, and goes on.
// Threads: one of its own, on which `take` is called.
class Acceptor {
 public:
  // Owns the connection's descriptor, which does not block.
  using Take = std::function<void(int connection)>;

  // On each address that HOST stands for; port 0: a free one. Connections wait until Start.
  // Unavailable - an address is in use or not this machine's.
  static absl::StatusOr<std::unique_ptr<Acceptor>> Listen(const std::string& address);
  ~Acceptor();
  Acceptor(const Acceptor&) = delete;
  Acceptor& operator=(const Acceptor&) = delete;

  // With the port it got.
  const std::string& address() const { return address_; }

  void Start(Take take);
  // Listens no more; `take` has returned for the last time. Repeating it does nothing.
  void Stop();

 private:
  explicit Acceptor(int wake) : wake_(wake) {}
  void Run();
  // False: there is none, or it cannot be taken now.
  bool AcceptOne(int listener);

  const int wake_;  // eventfd, for Stop
  std::string address_;
  std::vector<int> listeners_;
  Take take_;
  std::thread thread_;
};

}  // namespace sdp

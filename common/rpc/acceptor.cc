#include "common/rpc/acceptor.h"

#include <grpc/support/log.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/status.h"
#include "common/rpc/channel.h"

namespace sdp {
namespace {

// Descriptors that connections from outside leave free, if the process may have four times as many.
constexpr int kDescriptorsKept = 64;
// Connections that wait for their turn: at the default pace for 2.6 s.
constexpr int kBacklog = 512;
// Until descriptors may be free again, or more connections may begin.
constexpr absl::Duration kPause = absl::Milliseconds(100);

using Addresses = std::unique_ptr<addrinfo, void (*)(addrinfo*)>;

absl::Status CannotListen(absl::string_view address, absl::string_view why) {
  return absl::UnavailableError(absl::StrCat("cannot listen on ", address, ": ", why));
}

absl::StatusOr<Addresses> Resolve(const std::string& address) {
  const size_t colon = address.rfind(':');
  std::string host = address.substr(0, colon);
  if (absl::StartsWith(host, "[")) host = host.substr(1, host.size() - 2);
  addrinfo hints = {};
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), address.c_str() + colon + 1, &hints, &found);
  if (error != 0) return CannotListen(address, gai_strerror(error));
  return Addresses(found, freeaddrinfo);
}

in_port_t* PortOf(sockaddr* address) {
  return address->sa_family == AF_INET6 ? &reinterpret_cast<sockaddr_in6*>(address)->sin6_port
                                        : &reinterpret_cast<sockaddr_in*>(address)->sin_port;
}

void Set(int socket, int level, int option, int value) {
  setsockopt(socket, level, option, &value, sizeof(value));
}

// A socket that listens on `to`, whose port is set if it was 0; else -errno.
int ListenOn(const addrinfo& to, bool is_only) {
  const int fd = socket(to.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  // A server that is started again takes its old port; two cannot share one.
  Set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  // "[::]" alone is for IPv4 too.
  if (to.ai_family == AF_INET6) Set(fd, IPPROTO_IPV6, IPV6_V6ONLY, is_only ? 0 : 1);
  // Connections inherit these. The second: what was sent is acknowledged, or the connection ends.
  Set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  Set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT,
      static_cast<int>(absl::ToInt64Milliseconds(kKeepaliveTimeout)));
  socklen_t size = to.ai_addrlen;
  if (bind(fd, to.ai_addr, size) == 0 && listen(fd, kBacklog) == 0 &&
      getsockname(fd, to.ai_addr, &size) == 0)
    return fd;
  const int error = errno;
  close(fd);
  return -error;
}

// Whether a process that may have so many descriptors has too few left when it gets this one: the
// kernel gives the lowest that is free.
bool IsOneTooMany(int descriptor) {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur > INT32_MAX) return false;
  const int most = static_cast<int>(limit.rlim_cur);
  if (descriptor < most - std::min(kDescriptorsKept, most / 4)) return false;
  gpr_log(GPR_ERROR, "closed a new connection: %d of %d descriptors are in use (ulimit -n)",
          descriptor, most);
  return true;
}

}  // namespace

ConnectionPace::Limits ConnectionPace::OfThisMachine() {
  Limits limits;
  limits.per_sec *= std::max(1u, std::thread::hardware_concurrency());
  return limits;
}

bool ConnectionPace::Take(absl::Time now) {
  // A clock that was set back adds nothing.
  const double passed = absl::ToDoubleSeconds(std::max(now - then_, absl::ZeroDuration()));
  left_ = std::min(limits_.burst, left_ + passed * limits_.per_sec);
  then_ = now;
  if (left_ < 1) return false;
  left_ -= 1;
  return true;
}

absl::StatusOr<std::unique_ptr<Acceptor>> Acceptor::Listen(const std::string& address,
                                                           const ConnectionPace::Limits& pace) {
  SDP_ASSIGN_OR_RETURN(const Addresses found, Resolve(address));
  const int wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake < 0) return CannotListen(address, strerror(errno));
  std::unique_ptr<Acceptor> acceptor(new Acceptor(wake, pace));
  in_port_t port = *PortOf(found->ai_addr);
  int error = 0;
  for (addrinfo* one = found.get(); one != nullptr; one = one->ai_next) {
    *PortOf(one->ai_addr) = port;
    const int listener = ListenOn(*one, one == found.get() && one->ai_next == nullptr);
    if (listener >= 0) {
      acceptor->listeners_.push_back(listener);
      port = *PortOf(one->ai_addr);
      continue;
    }
    error = -listener;
    // "localhost" may stand for an address of IPv6 on a machine without. But who shares a name with
    // another process would get a part of its peers.
    if (error == EADDRINUSE) break;
  }
  if (error == EADDRINUSE) return CannotListen(address, "the port is in use");
  if (acceptor->listeners_.empty()) {
    return CannotListen(address, absl::StrCat(strerror(error), ": is it this machine's?"));
  }
  acceptor->address_ = absl::StrCat(address.substr(0, address.rfind(':')), ":", ntohs(port));
  return acceptor;
}

Acceptor::~Acceptor() {
  Stop();
  close(wake_);
}

void Acceptor::Start(Take take) {
  take_ = std::move(take);
  thread_ = std::thread([this] { Run(); });
}

void Acceptor::Stop() {
  if (thread_.joinable()) {
    eventfd_write(wake_, 1);
    thread_.join();
  }
  for (const int listener : std::exchange(listeners_, {})) close(listener);
}

void Acceptor::Run() {
  std::vector<pollfd> polled = {{wake_, POLLIN, 0}};
  for (const int listener : listeners_) polled.push_back({listener, POLLIN, 0});
  for (;;) {
    if (poll(polled.data(), polled.size(), -1) < 0) continue;
    if (polled[0].revents != 0) return;
    for (size_t i = 1; i < polled.size(); ++i) {
      if (polled[i].revents != 0 && !AcceptOne(polled[i].fd)) {
        poll(polled.data(), 1, static_cast<int>(absl::ToInt64Milliseconds(kPause)));
      }
    }
  }
}

bool Acceptor::AcceptOne(int listener) {
  if (!pace_.Take(absl::Now())) {
    gpr_log(GPR_ERROR, "new connections wait: too many come, %s takes %.0f of them a second",
            address_.c_str(), pace_.limits().per_sec);
    return false;
  }
  const int connection = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (connection < 0) {
    // Else it was gone before it was taken.
    return errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM;
  }
  if (IsOneTooMany(connection)) {
    close(connection);
  } else {
    take_(connection);
  }
  return true;
}

}  // namespace sdp

#include "tests/bench/raw_sockets.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "tests/bench/pipes.h"
#include "tests/bench/stats.h"

namespace sdp {
namespace {

constexpr size_t kChunk = size_t{1} << 20;

[[noreturn]] void Fail(const char* what) {
  std::perror(what);
  std::abort();
}

// Sends and receives `bytes`, `steps` times, from and to memory that no cache holds.
void Exchange(int socket, int64_t bytes, int steps) {
  std::vector<char> out(static_cast<size_t>(bytes), 1), in(static_cast<size_t>(bytes), 2);
  std::thread writer([&] {
    for (int64_t left = bytes * steps; left > 0;) {
      const size_t at = static_cast<size_t>((bytes * steps - left) % bytes);
      const ssize_t sent = write(socket, out.data() + at, std::min(kChunk, out.size() - at));
      if (sent <= 0) Fail("write");
      left -= sent;
    }
  });
  for (int64_t left = bytes * steps; left > 0;) {
    const size_t at = static_cast<size_t>((bytes * steps - left) % bytes);
    const ssize_t got = read(socket, in.data() + at, std::min(kChunk, in.size() - at));
    if (got <= 0) Fail("read");
    left -= got;
  }
  writer.join();
}

int Listen(sockaddr_in* address) {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  *address = {};
  address->sin_family = AF_INET;
  address->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(*address);
  if (listener < 0 || bind(listener, reinterpret_cast<sockaddr*>(address), size) != 0 ||
      listen(listener, 1) != 0 ||
      getsockname(listener, reinterpret_cast<sockaddr*>(address), &size) != 0) {
    Fail("listen");
  }
  return listener;
}

// One end: at "go" exchanges once to warm up, then tells the time of the rest.
void RunEnd(int socket, int64_t bytes, int steps, Pipes& parent) {
  std::string line;
  parent.WriteLine("ready");
  if (!parent.ReadLine(&line)) return;
  Exchange(socket, bytes, 1);
  const absl::Time begin = absl::Now();
  const double cpu = CpuMilliseconds();
  Exchange(socket, bytes, steps);
  parent.WriteLine(std::to_string(absl::ToDoubleMilliseconds(absl::Now() - begin) / steps));
  parent.WriteLine(std::to_string((CpuMilliseconds() - cpu) / steps));
}

}  // namespace

RawSockets MeasureRawSockets(int pairs, int64_t bytes, int steps) {
  std::vector<std::unique_ptr<Child>> ends;
  for (int p = 0; p < pairs; ++p) {
    sockaddr_in address;
    const int listener = Listen(&address);
    ends.push_back(std::make_unique<Child>([&](Pipes& parent) {
      const int socket = accept(listener, nullptr, nullptr);
      if (socket < 0) Fail("accept");
      RunEnd(socket, bytes, steps, parent);
    }));
    ends.push_back(std::make_unique<Child>([&](Pipes& parent) {
      const int end = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
      if (connect(end, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0)
        Fail("connect");
      RunEnd(end, bytes, steps, parent);
    }));
    close(listener);
  }
  for (auto& end : ends) end->ReadLine();
  for (auto& end : ends) end->WriteLine("go");
  RawSockets measured;
  for (auto& end : ends) {
    measured.ms = std::max(measured.ms, std::stod(end->ReadLine()));
    measured.cpu_ms += std::stod(end->ReadLine());
  }
  return measured;
}

}  // namespace sdp

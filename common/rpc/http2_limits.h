#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"

namespace sdp {

// A member has two streams and a few calls under way on a connection; who wants more waits.
inline constexpr int kMaxCallsPerConnection = 128;

// Http2Limits decides which connections send what no peer of ours would, and end for it. gRPC 1.51
// leaves three things to the peer:
// - the headers of a call may be as long as he likes, and are copied anew with each piece that
//   comes: 10 MiB take a core, more of them memory without end (CVE-2023-33953);
// - calls may be begun and taken back faster than they can be ended (70 us and 15 KiB each), as
//   those taken back do not count as calls under way;
// - the limit of calls under way holds for a peer who has acknowledged it.
// Threads: the caller's lock.
class Http2Limits {
 public:
  // Of one call; gRPC lets 8 KiB pass when they come in one frame.
  static constexpr size_t kMostHeaderBytes = 16 << 10;
  // Of calls that are over on this side, one after the other: who gave many up hears of them late.
  static constexpr size_t kMostLateBytes = 1 << 20;
  // On one connection, in a second. Calls one after the other come to 4,000, by what a round trip
  // takes; who gives so many up is no member.
  static constexpr int kMostCalls = 10'000;
  static constexpr int kMostResets = 100;
  // On all connections, as who gives calls up opens new ones too. Then those end that gave up more
  // than the few of a member who leaves.
  static constexpr int kMostResetsOfAll = 1000;
  static constexpr int kFewResets = 4;

  // gRPC names a connection by its parser of headers, or by its transport.
  struct Connection {
    const void* parser;
    const void* transport;
  };
  struct Frame {
    bool ends_headers = true;
    bool of_known_call = true;
    bool on_server = true;
  };
  void BeginFrame(const void* parser, const Frame& frame, absl::Time now);
  // A piece of the newest frame. ResourceExhausted - that is too much: the connection has to end,
  // and is forgotten.
  absl::Status Count(const Connection& connection, size_t bytes);
  // A call is taken back by the peer. A server may do so, to say that it refuses the call's rest:
  // only clients' count. ResourceExhausted as above.
  absl::Status Reset(const void* transport, absl::Time now);

 private:
  struct Second {
    int64_t number = 0;
    int count = 0;

    void Add(absl::Time now);
  };
  struct Peer {
    size_t bytes = 0;   // of the headers that come now
    bool open = false;  // they go on in the next frame
    bool late = false;
    bool on_server = false;
    Second calls;
  };

  // Of connections that ended in order nobody says so: all are forgotten once there are more than a
  // process may have.
  absl::flat_hash_map<const void*, Peer> peers_;     // by parser
  absl::flat_hash_map<const void*, Second> resets_;  // by transport; of clients
  Second all_resets_;
};

// Puts these limits in front of gRPC's reader, for all connections of the process. gRPC's interface
// has nothing for it, but libgrpc exports the functions where they belong, and those of the same
// names in http2_limits.cc take their place. Later versions of gRPC have such limits, and other
// functions: then only those hold, and the log says so.
void LimitHttp2();

}  // namespace sdp

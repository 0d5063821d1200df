#pragma once

#include <openssl/ssl.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

// A client that sends over its connection what a test wants, byte by byte.
namespace sdp {

// ---- Frames of HTTP/2 (RFC 9113), and headers as HPACK literals (RFC 7541) ----

std::string Http2Frame(uint8_t type, uint8_t flags, uint32_t stream, absl::string_view payload);
std::string Header(absl::string_view name, absl::string_view value);
// The begin of a header whose value has 4 GiB.
std::string EndlessHeader();
// Those that gRPC wants of a call.
std::string CallHeaders(absl::string_view method);

std::string Headers(uint32_t stream, absl::string_view headers);       // a call begins
std::string HeadersBegin(uint32_t stream, absl::string_view headers);  // and goes on in:
std::string Continuation(uint32_t stream, absl::string_view headers);
std::string Reset(uint32_t stream);
// One message of gRPC, in frames of at most 16 KiB. `announced`: its length, if not the real one.
std::string Message(uint32_t stream, absl::string_view message, int64_t announced = -1);

// ---- Connections ----

// What a client shows: files of `sdp certs`, or of another cluster.
struct TlsFiles {
  std::string certificate, key;
};

// A connection to HOST:PORT of this machine. Blocking; nothing lasts longer than 2 s, if it is not
// said. Threads: one.
class Http2Peer {
 public:
  enum class Speaks { kNothing, kHttp2 };
  // With TLS if `files` are there; kHttp2: what a client says first, and the server's answer to it
  // is awaited.
  explicit Http2Peer(const std::string& address, const TlsFiles* files = nullptr,
                     Speaks speaks = Speaks::kHttp2);
  ~Http2Peer();
  Http2Peer(const Http2Peer&) = delete;
  Http2Peer& operator=(const Http2Peer&) = delete;

  bool connected() const { return fd_ >= 0; }
  // The server has said something.
  bool answered() const { return received_bytes_ > 0; }
  int64_t sent_bytes() const { return sent_bytes_; }

  // False: the server has ended the connection, or takes nothing.
  bool Send(absl::string_view bytes);
  // Reads what comes. True: the connection ended within `limit`.
  bool AwaitEnd(absl::Duration limit = absl::Seconds(20));

 private:
  // Bytes that came; 0: the end; negative: none now.
  int64_t Receive();

  int fd_ = -1;
  std::unique_ptr<SSL, void (*)(SSL*)> tls_{nullptr, SSL_free};
  int64_t sent_bytes_ = 0, received_bytes_ = 0;
};

}  // namespace sdp

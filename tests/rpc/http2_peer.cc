#include "tests/rpc/http2_peer.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace sdp {
namespace {

constexpr uint8_t kData = 0, kHeaders = 1, kReset = 3, kSettings = 4, kContinuation = 9;
constexpr uint8_t kEndHeaders = 4;
constexpr absl::Duration kLimit = absl::Seconds(2);

std::string BigEndian(uint64_t number, int bytes) {
  std::string text;
  for (int i = bytes - 1; i >= 0; --i) text.push_back(static_cast<char>(number >> (8 * i)));
  return text;
}

std::string Length(uint64_t length) {
  if (length < 127) return BigEndian(length, 1);
  std::string text = "\x7f";
  for (length -= 127; length >= 128; length >>= 7)
    text.push_back(static_cast<char>(length % 128 + 128));
  text.push_back(static_cast<char>(length));
  return text;
}

SSL_CTX* ContextOf(const TlsFiles& files) {
  std::signal(SIGPIPE, SIG_IGN);  // OpenSSL writes as to a file
  SSL_CTX* context = SSL_CTX_new(TLS_client_method());
  SSL_CTX_use_certificate_file(context, files.certificate.c_str(), SSL_FILETYPE_PEM);
  SSL_CTX_use_PrivateKey_file(context, files.key.c_str(), SSL_FILETYPE_PEM);
  static constexpr unsigned char kH2[] = {2, 'h', '2'};
  SSL_CTX_set_alpn_protos(context, kH2, sizeof(kH2));
  return context;
}

}  // namespace

std::string Http2Frame(uint8_t type, uint8_t flags, uint32_t stream, absl::string_view payload) {
  return absl::StrCat(BigEndian(payload.size(), 3), BigEndian(type, 1), BigEndian(flags, 1),
                      BigEndian(stream, 4), payload);
}
std::string Header(absl::string_view name, absl::string_view value) {
  return absl::StrCat(BigEndian(0, 1), Length(name.size()), name, Length(value.size()), value);
}
std::string EndlessHeader() {
  return absl::StrCat(BigEndian(0, 1), Length(1), "k", Length(0xf0000000));
}
std::string CallHeaders(absl::string_view method) {
  return absl::StrCat(Header(":method", "POST"), Header(":scheme", "http"), Header(":path", method),
                      Header(":authority", "localhost"), Header("te", "trailers"),
                      Header("content-type", "application/grpc"));
}

std::string Headers(uint32_t stream, absl::string_view headers) {
  return Http2Frame(kHeaders, kEndHeaders, stream, headers);
}
std::string HeadersBegin(uint32_t stream, absl::string_view headers) {
  return Http2Frame(kHeaders, 0, stream, headers);
}
std::string Continuation(uint32_t stream, absl::string_view headers) {
  return Http2Frame(kContinuation, 0, stream, headers);
}
std::string Reset(uint32_t stream) { return Http2Frame(kReset, 0, stream, BigEndian(8, 4)); }
std::string Message(uint32_t stream, absl::string_view message, int64_t announced) {
  const uint64_t length = announced < 0 ? message.size() : static_cast<uint64_t>(announced);
  const std::string all = absl::StrCat(BigEndian(0, 1), BigEndian(length, 4), message);
  std::string frames;
  for (size_t at = 0; at < all.size(); at += 16384)
    absl::StrAppend(&frames, Http2Frame(kData, 0, stream, all.substr(at, 16384)));
  return frames;
}

Http2Peer::Http2Peer(const std::string& address, const TlsFiles* files, Speaks speaks) {
  int port = 0;
  if (!absl::SimpleAtoi(address.substr(address.rfind(':') + 1), &port)) return;
  sockaddr_in to = {};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(port));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const timeval limit = absl::ToTimeval(kLimit);
  for (const int option : {SO_SNDTIMEO, SO_RCVTIMEO})
    setsockopt(fd_, SOL_SOCKET, option, &limit, sizeof(limit));
  bool connected = connect(fd_, reinterpret_cast<const sockaddr*>(&to), sizeof(to)) == 0;
  if (connected && files != nullptr) {
    SSL_CTX* context = ContextOf(*files);
    tls_.reset(SSL_new(context));
    SSL_CTX_free(context);
    SSL_set_fd(tls_.get(), fd_);
    connected = SSL_connect(tls_.get()) == 1;
  }
  if (!connected) {
    close(fd_);
    fd_ = -1;
  } else if (speaks == Speaks::kHttp2 && Send(absl::StrCat("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                                                           Http2Frame(kSettings, 0, 0, "")))) {
    (void)Receive();
  }
}

Http2Peer::~Http2Peer() {
  if (fd_ >= 0) close(fd_);
}

bool Http2Peer::Send(absl::string_view bytes) {
  while (fd_ >= 0 && !bytes.empty()) {
    const int64_t sent = tls_ ? SSL_write(tls_.get(), bytes.data(), static_cast<int>(bytes.size()))
                              : send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    sent_bytes_ += sent;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return fd_ >= 0;
}

int64_t Http2Peer::Receive() {
  char bytes[16384];
  const int64_t got =
      tls_ ? SSL_read(tls_.get(), bytes, sizeof(bytes)) : recv(fd_, bytes, sizeof(bytes), 0);
  received_bytes_ += std::max(got, int64_t{0});
  if (got >= 0 || !tls_) return got < 0 && errno != EAGAIN ? 0 : got;
  return SSL_get_error(tls_.get(), static_cast<int>(got)) == SSL_ERROR_WANT_READ ? -1 : 0;
}

bool Http2Peer::AwaitEnd(absl::Duration limit) {
  if (fd_ < 0) return true;
  for (const absl::Time deadline = absl::Now() + limit;;) {
    const absl::Duration left = deadline - absl::Now();
    pollfd polled = {fd_, POLLIN, 0};
    if (left <= absl::ZeroDuration() ||
        poll(&polled, 1, static_cast<int>(absl::ToInt64Milliseconds(left)) + 1) != 1)
      return false;
    if (Receive() == 0) return true;
  }
}

}  // namespace sdp

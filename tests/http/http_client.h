#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace sdp {

// One connection to a server on this machine's loopback, for whatever one may send to it.
class HttpClient {
 public:
  // `address`: HOST:PORT, of which only PORT counts.
  explicit HttpClient(const std::string& address)
      : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const timeval patience = {.tv_sec = 30, .tv_usec = 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    sockaddr_in to = {};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(std::atoi(address.c_str() + address.rfind(':') + 1)));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(fd_, reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0;
  }
  ~HttpClient() { close(fd_); }
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  // false: the server takes no more.
  bool Send(const std::string& text) const {
    return connected_ &&
           send(fd_, text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size());
  }
  // All until the server ends the connection, or says nothing for 30 s.
  std::string Read() const {
    std::string answer;
    char buffer[4096];
    while (connected_) {
      const ssize_t n = read(fd_, buffer, sizeof(buffer));
      if (n <= 0) break;
      answer.append(buffer, static_cast<size_t>(n));
    }
    return answer;
  }

 private:
  const int fd_;
  bool connected_ = false;
};

// What the server says to one GET, header and all; "" if it cannot be reached. `more`: header
// lines, each with its line end.
inline std::string HttpGet(const std::string& address, const std::string& path,
                           const std::string& more = "Host: localhost\r\n") {
  const HttpClient client(address);
  return client.Send("GET " + path + " HTTP/1.0\r\n" + more + "\r\n") ? client.Read() : "";
}

// Of such an answer what comes behind the header.
inline std::string HttpBody(const std::string& answer) {
  const size_t end = answer.find("\r\n\r\n");
  return end == std::string::npos ? "" : answer.substr(end + 4);
}

}  // namespace sdp

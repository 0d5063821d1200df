#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/http/request.h"
#include "common/rpc/address.h"

struct MHD_Daemon;

namespace sdp {

// Answers GET over plain HTTP. What a client can cost is bounded: a connection has 16 KiB for what
// it sends and ends after `patience` of silence, there are at most 64 of them, and none keeps the
// others waiting, whether it sends or takes slowly.
// Threads: one of its own, on which `answer` is called. The destructor ends it.
class HttpServer {
 public:
  struct Options {
    std::string address;            // HOST:PORT, HOST a number or localhost; port 0: any free one
    std::string token = "";         // HttpAccess::token
    SecurityOptions security = {};  // but for its TLS, which is of gRPC's connections alone
    absl::Duration patience = absl::Seconds(10);  // whole seconds
  };
  using Answer = std::function<HttpResponse(const HttpRequest&)>;

  // InvalidArgument - it is no such address. FailedPrecondition - it is beyond this machine's
  // loopback, and neither --plain-http nor --insecure was given. Unavailable - cannot listen there.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const Options& options, Answer answer);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  const std::string& address() const { return address_; }  // with the port it got

 private:
  HttpServer(HttpAccess access, Answer answer);

  Answer take_;  // what may be asked goes on to `answer`
  std::string address_;
  MHD_Daemon* daemon_ = nullptr;
};

}  // namespace sdp

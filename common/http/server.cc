#include "common/http/server.h"

#include <microhttpd.h>
#include <netdb.h>

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "common/base/status.h"

namespace sdp {
namespace {

constexpr unsigned kMostConnections = 64;
constexpr size_t kConnectionBytes = size_t{16} << 10;

absl::string_view OrEmpty(const char* text) { return text == nullptr ? "" : text; }

absl::string_view HostOf(const std::string& address) {
  return absl::string_view(address).substr(0, address.rfind(':'));
}

absl::Status CheckHttpAddress(const std::string& address, const SecurityOptions& security) {
  const size_t colon = address.rfind(':');
  int port = -1;
  if (colon == std::string::npos || colon == 0 ||
      !absl::SimpleAtoi(absl::string_view(address).substr(colon + 1), &port) || port < 0 ||
      port > 65535)
    return absl::InvalidArgumentError("not HOST:PORT with a port from 0 to 65535");
  if (security.insecure || security.plain_http || IsLocalAddress(address)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "this is plain HTTP, which others can read beyond this machine's loopback; give --plain-http "
      "to allow that, or listen on 127.0.0.1 and reach it through ssh -L or kubectl port-forward");
}

// Of HOST:PORT; null: HOST is no number of an address.
struct FreeAddress {
  void operator()(addrinfo* found) const { freeaddrinfo(found); }
};
std::unique_ptr<addrinfo, FreeAddress> Resolve(const std::string& address) {
  absl::string_view host = HostOf(address);
  if (host == "localhost") host = "127.0.0.1";
  absl::ConsumePrefix(&host, "[");
  absl::ConsumeSuffix(&host, "]");
  addrinfo hints = {};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const std::string port = address.substr(address.rfind(':') + 1);
  if (getaddrinfo(std::string(host).c_str(), port.c_str(), &hints, &found) != 0) return nullptr;
  return std::unique_ptr<addrinfo, FreeAddress>(found);
}

MHD_Result KeepArgument(void* arguments, MHD_ValueKind, const char* key, const char* value) {
  static_cast<std::map<std::string, std::string>*>(arguments)->emplace(OrEmpty(key),
                                                                       OrEmpty(value));
  return MHD_YES;
}

MHD_Result Send(MHD_Connection* connection, const HttpResponse& response) {
  MHD_Response* const message = MHD_create_response_from_buffer(
      response.body.size(), const_cast<char*>(response.body.data()), MHD_RESPMEM_MUST_COPY);
  if (message == nullptr) return MHD_NO;  // the connection ends
  for (const auto& [key, value] : HeadersOf(response))
    MHD_add_response_header(message, key, value.c_str());
  const MHD_Result queued =
      MHD_queue_response(connection, static_cast<unsigned>(response.status), message);
  MHD_destroy_response(message);  // lets go of it; it lives until it is sent
  return queued;
}

// Called when a request's header is there. A body is never waited for: answered this early, the
// connection ends with the answer.
MHD_Result OnRequest(void* take, MHD_Connection* connection, const char* path, const char* method,
                     const char* /*version*/, const char* /*body*/, size_t* /*body_size*/,
                     void** /*state*/) {
  HttpRequest request = {
      .method = OrEmpty(method),
      .path = OrEmpty(path),
      .host = OrEmpty(MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Host")),
      .authorization =
          OrEmpty(MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Authorization"))};
  MHD_get_connection_values(connection, MHD_GET_ARGUMENT_KIND, KeepArgument, &request.arguments);
  return Send(connection, (*static_cast<HttpServer::Answer*>(take))(request));
}

}  // namespace

HttpServer::HttpServer(HttpAccess access, Answer answer)
    : take_([access = std::move(access), answer = std::move(answer)](const HttpRequest& request) {
        const std::optional<HttpResponse> refusal = Refusal(request, access);
        return refusal.has_value() ? *refusal : answer(request);
      }) {}

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const Options& options,
                                                              Answer answer) {
  const std::string& address = options.address;
  SDP_RETURN_IF_ERROR(Context(CheckHttpAddress(address, options.security), address));
  const auto resolved = Resolve(address);
  if (resolved == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(address, ": the host is neither localhost nor the number of an address"));
  }
  HttpAccess access = {.token = options.token};
  if (IsLocalAddress(address)) access.hosts = HttpAccess::Hosts::kLoopback;
  std::unique_ptr<HttpServer> server(new HttpServer(std::move(access), std::move(answer)));
  const unsigned flags =
      MHD_USE_AUTO_INTERNAL_THREAD | (resolved->ai_family == AF_INET6 ? MHD_USE_IPv6 : MHD_NO_FLAG);
  server->daemon_ = MHD_start_daemon(
      flags, 0, nullptr, nullptr, OnRequest, &server->take_, MHD_OPTION_SOCK_ADDR,
      resolved->ai_addr, MHD_OPTION_CONNECTION_LIMIT, kMostConnections,
      MHD_OPTION_CONNECTION_TIMEOUT, static_cast<unsigned>(absl::ToInt64Seconds(options.patience)),
      MHD_OPTION_CONNECTION_MEMORY_LIMIT, kConnectionBytes, MHD_OPTION_STRICT_FOR_CLIENT, 1,
      MHD_OPTION_END);
  if (server->daemon_ == nullptr) {
    return absl::UnavailableError(absl::StrCat(
        address, ": cannot listen there: the port is in use, or it is no address of this machine"));
  }
  const MHD_DaemonInfo* const info =
      MHD_get_daemon_info(server->daemon_, MHD_DAEMON_INFO_BIND_PORT);
  server->address_ = absl::StrCat(HostOf(address), ":", info->port);
  return server;
}

HttpServer::~HttpServer() {
  if (daemon_ != nullptr) MHD_stop_daemon(daemon_);
}

}  // namespace sdp

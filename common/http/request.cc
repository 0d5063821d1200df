#include "common/http/request.h"

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "common/rpc/address.h"
#include "common/tls/token.h"

namespace sdp {
namespace {

bool ShowsToken(absl::string_view authorization, absl::string_view token) {
  const size_t space = authorization.find(' ');
  if (space == absl::string_view::npos) return false;
  const absl::string_view scheme = authorization.substr(0, space);
  const absl::string_view shown = absl::StripAsciiWhitespace(authorization.substr(space));
  if (absl::EqualsIgnoreCase(scheme, "bearer")) return SameToken(shown, token);
  std::string user_and_password;
  if (!absl::EqualsIgnoreCase(scheme, "basic") ||
      !absl::Base64Unescape(shown, &user_and_password)) {
    return false;
  }
  const size_t colon = user_and_password.find(':');
  return colon != std::string::npos &&
         SameToken(absl::string_view(user_and_password).substr(colon + 1), token);
}

}  // namespace

std::optional<HttpResponse> Refusal(const HttpRequest& request, const HttpAccess& access) {
  if (request.method != "GET") return HttpResponse{.status = 405, .body = "only GET\n"};
  if (access.hosts == HttpAccess::Hosts::kLoopback && !request.host.empty() &&
      !IsLocalAddress(request.host)) {
    return HttpResponse{.status = 421, .body = "only under the names localhost and 127.0.0.1\n"};
  }
  if (access.token.empty() || ShowsToken(request.authorization, access.token)) return std::nullopt;
  return HttpResponse{.status = 401, .body = "wants its token, as password or as bearer token\n"};
}

std::vector<std::pair<const char*, std::string>> HeadersOf(const HttpResponse& response) {
  std::vector<std::pair<const char*, std::string>> headers = {
      {"Content-Type", response.type},
      {"Cache-Control", "no-store"},
      {"Content-Security-Policy",
       "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src "
       "data:; "
       "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"},
      {"Cross-Origin-Resource-Policy", "same-origin"},
      {"Referrer-Policy", "no-referrer"},
      {"X-Content-Type-Options", "nosniff"}};
  if (response.status == 405) headers.emplace_back("Allow", "GET");
  if (response.status == 401)
    headers.emplace_back("WWW-Authenticate", "Basic realm=\"sdp\", charset=\"UTF-8\"");
  return headers;
}

}  // namespace sdp

#include "server/coordinator/page/serve_page.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/data/small_file.h"
#include "common/tls/token.h"

namespace sdp {
namespace {

constexpr size_t kMostFileBytes = 4096;

absl::StatusOr<std::string> ReadToken(const PageOptions& options) {
  if (options.token_file.empty()) {
    if (IsLocalAddress(options.address)) return "";
    return absl::FailedPreconditionError(
        absl::StrCat("--page ", options.address,
                     ": beyond this machine's loopback it wants a token: give --page-token FILE"));
  }
  absl::StatusOr<std::string> token = ReadSmallFile(options.token_file, kMostFileBytes);
  if (token.ok()) token = ParseToken(*token);
  if (!token.ok())
    return Context(token.status(), absl::StrCat("--page-token ", options.token_file));
  return token;
}

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> ServePage(const PageOptions& options,
                                                      StatusPage::Take take) {
  if (options.address.empty()) {
    if (options.token_file.empty()) return std::unique_ptr<HttpServer>();
    return absl::InvalidArgumentError("--page-token goes with --page");
  }
  SDP_ASSIGN_OR_RETURN(const std::string token, ReadToken(options));
  auto page = std::make_shared<StatusPage>(std::move(take));
  auto server =
      HttpServer::Start({.address = options.address, .token = token, .security = options.security},
                        [page](const HttpRequest& request) { return page->Answer(request); });
  if (!server.ok()) return Context(server.status(), "--page");
  return server;
}

}  // namespace sdp

#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/http/server.h"
#include "server/coordinator/page/status_page.h"

namespace sdp {

struct PageOptions {
  std::string address;     // HOST:PORT; "": there is none
  std::string token_file;  // "": none, which is allowed on this machine's loopback alone
  SecurityOptions security;
};

// A run's status page at an address of its own. Null if none is wanted. Errors: HttpServer::Start's
// and, naming what is wrong, FailedPrecondition - no token; ReadSmallFile's.
absl::StatusOr<std::unique_ptr<HttpServer>> ServePage(const PageOptions& options,
                                                      StatusPage::Take take);

}  // namespace sdp

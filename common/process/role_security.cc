#include "common/process/role_security.h"

#include <spdlog/spdlog.h>

#include <string>

#include "common/base/status.h"
#include "common/rpc/identity.h"

namespace sdp {

absl::StatusOr<SecurityOptions> RoleSecurity(const RoleFlags& flags,
                                             const RunConfig::Security& files) {
  SDP_ASSIGN_OR_RETURN(
      SecurityOptions security,
      LoadSecurity(files, {.insecure = flags.insecure, .plain_http = flags.plain_http},
                   [](const std::string& line) { spdlog::warn("{}", line); }));
  if (security.identity != nullptr) spdlog::info("{}", security.identity->description());
  return security;
}

}  // namespace sdp

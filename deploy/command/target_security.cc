#include "deploy/command/target_security.h"

#include <filesystem>
#include <optional>

#include "common/base/status.h"
#include "common/config/config.h"
#include "common/rpc/identity.h"
#include "deploy/command/run_files.h"

namespace sdp {

absl::StatusOr<SecurityOptions> SecurityOfTarget(const std::string& target,
                                                 const RunConfig::Security& given,
                                                 const SecurityOptions& plaintext) {
  RunConfig::Security files;
  std::error_code error;
  if (std::filesystem::is_directory(target, error)) {
    SDP_ASSIGN_OR_RETURN(const std::optional<std::string> owner, RunOwner(target));
    if (!owner.has_value()) return plaintext;
    SDP_ASSIGN_OR_RETURN(const LoadedConfig loaded, LoadConfig(target + "/config.toml", {}));
    files = loaded.config.security();
  }
  if (!given.ca().empty()) files.set_ca(given.ca());
  if (!given.cert().empty()) files.set_cert(given.cert());
  if (!given.key().empty()) files.set_key(given.key());
  if (!given.token().empty()) files.set_token(given.token());
  if (!given.server_name().empty()) files.set_server_name(given.server_name());
  // Refusals come back as the call's error, which the user reads.
  return LoadSecurity(files, plaintext, /*log=*/nullptr);
}

}  // namespace sdp

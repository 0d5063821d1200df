#pragma once

#include "absl/status/statusor.h"
#include "common/process/role.h"
#include "common/rpc/address.h"
#include "proto/config.pb.h"

namespace sdp {

// How a role protects its connections, by [security] and --insecure. Its log tells the files, and
// which peers are refused and why. Errors: LoadSecurity's (common/rpc/identity.h).
absl::StatusOr<SecurityOptions> RoleSecurity(const RoleFlags& flags,
                                             const RunConfig::Security& files);

}  // namespace sdp

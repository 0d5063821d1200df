#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "common/rpc/address.h"
#include "proto/config.pb.h"

namespace sdp {

// How to speak to a run's processes, for what a user named: of a run folder, as its config.toml
// says; but for the files in `given` that are not empty. Of a run that is over: `plaintext`, as
// there is nobody to speak to. Errors: LoadSecurity's, LoadConfig's.
absl::StatusOr<SecurityOptions> SecurityOfTarget(const std::string& target,
                                                 const RunConfig::Security& given,
                                                 const SecurityOptions& plaintext);

}  // namespace sdp

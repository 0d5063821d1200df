#pragma once

#include <nlohmann/json_fwd.hpp>

#include "proto/coordinator.pb.h"
#include "proto/status.pb.h"

namespace sdp {

// A run's status for programs: `sdp status --json` and the status page. Keys are the fields of the
// messages; 64-bit numbers are numbers, hashes 16 hexadecimal digits, what is not known is absent.
nlohmann::ordered_json RunStatusJson(const proto::RunStatus& run);
nlohmann::ordered_json WaitJson(const proto::Wait& wait);

}  // namespace sdp

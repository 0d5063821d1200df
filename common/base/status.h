#pragma once

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace sdp {

// The same error, with what was being done in front: "push block 17 to shard 3: checksum differs".
inline absl::Status Context(const absl::Status& status, absl::string_view doing) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(doing, ": ", status.message()));
}

}  // namespace sdp

#define SDP_CONCAT_INNER_(a, b) a##b
#define SDP_CONCAT_(a, b) SDP_CONCAT_INNER_(a, b)

#define SDP_RETURN_IF_ERROR(expression)                                                 \
  do {                                                                                  \
    if (absl::Status sdp_status_ = (expression); !sdp_status_.ok()) return sdp_status_; \
  } while (false)

#define SDP_ASSIGN_OR_RETURN(lhs, expression) \
  SDP_ASSIGN_OR_RETURN_IMPL_(SDP_CONCAT_(sdp_statusor_, __LINE__), lhs, expression)
#define SDP_ASSIGN_OR_RETURN_IMPL_(statusor, lhs, expression) \
  auto statusor = (expression);                               \
  if (!statusor.ok()) return statusor.status();               \
  lhs = *std::move(statusor)

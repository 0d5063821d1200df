#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/ids.h"

namespace sdp {

// Whose stream it is: said once, when the stream opens, so that a shard can refuse a stranger
// before it keeps anything for it. `instance` is the random number that the worker registered with;
// the coordinator tells it to shards, so an incarnation alone, which is easily guessed, proves
// nothing.
struct StreamName {
  Generation generation;
  Incarnation worker;
  uint64_t instance = 0;

  friend bool operator==(const StreamName&, const StreamName&) = default;
};

// Key of the call's metadata that holds it.
inline constexpr char kStreamNameKey[] = "sdp-stream";

// "GENERATION.INCARNATION.INSTANCE", decimal, decimal, 16 hexadecimal digits.
std::string StreamNameText(const StreamName& name);
// InvalidArgument - not written so, or numbers below 1.
absl::StatusOr<StreamName> ParseStreamName(absl::string_view text);

}  // namespace sdp

#include "common/rpc/stream_name.h"

#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/hash.h"

namespace sdp {

std::string StreamNameText(const StreamName& name) {
  return absl::StrCat(name.generation.value(), ".", name.worker.value(), ".",
                      HashText(name.instance));
}

absl::StatusOr<StreamName> ParseStreamName(absl::string_view text) {
  const std::vector<absl::string_view> parts = absl::StrSplit(text, '.');
  int64_t generation = 0, worker = 0;
  StreamName name;
  const bool good = parts.size() == 3 && absl::SimpleAtoi(parts[0], &generation) &&
                    absl::SimpleAtoi(parts[1], &worker) && generation > 0 && worker > 0 &&
                    parts[2].size() == 16 && absl::SimpleHexAtoi(parts[2], &name.instance);
  if (!good) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a stream names its worker as GENERATION.INCARNATION.INSTANCE in \"", kStreamNameKey,
        "\"; this one has ", text.empty() ? "nothing" : "something else", " there"));
  }
  name.generation = Generation(generation);
  name.worker = Incarnation(worker);
  return name;
}

}  // namespace sdp

#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/data/safetensors.h"
#include "common/model/catalog.h"
#include "common/model/layout.h"

namespace sdp {

// Where a shard's fragments begin: drawn from the seed, or read from a safetensors file (`--init`)
// of which it touches only the elements asked for. `catalog` and `layout` outlive it. Threads:
// confined to one.
class StartValues {
 public:
  StartValues(const Catalog* catalog, const Layout* layout, uint64_t seed)
      : catalog_(catalog), layout_(layout), seed_(seed) {}

  // From now on reads `path`. Errors: SafetensorsReader::Open's and CheckAgainst's, which name the
  // tensor.
  absl::Status ReadFrom(const std::string& path);

  // Writes a fragment's values, [n] f32. A file that cannot be read shows in status().
  void Fill(FragmentId fragment, absl::Span<float> values);
  const absl::Status& status() const { return status_; }

 private:
  const Catalog* const catalog_;
  const Layout* const layout_;
  const uint64_t seed_;
  std::unique_ptr<SafetensorsReader> file_;  // null: drawn
  absl::Status status_;                      // of Fill: the first error
};

}  // namespace sdp

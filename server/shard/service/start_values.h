#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/checkpoint/checkpoint_reader.h"
#include "common/data/tensor_files.h"
#include "common/model/catalog.h"
#include "common/model/layout.h"
#include "common/protocol/messages.h"
#include "server/shard/logic/optimizer.h"

namespace sdp {

// Where a shard's fragments begin: drawn from the seed, or read from a safetensors file (`--init`),
// a dense model's folder (`--from-pretrained`) or a checkpoint, of which it touches only what is
// asked for. `catalog` and `layout` outlive it.
// Threads: confined to one.
class StartValues {
 public:
  StartValues(const Catalog* catalog, const Layout* layout, uint64_t seed)
      : catalog_(catalog), layout_(layout), seed_(seed) {}

  // From now on reads what the coordinator says. Errors: TensorFiles::Open's and CheckAgainst's,
  // which name the tensor; ReadExportedFolder's; CheckpointReader::Open's.
  absl::Status ReadFrom(const StartState& start);

  // Writes a fragment's values, [n] f32, and from a checkpoint its optimizer state, which comes as
  // a new one. What cannot be read shows in status().
  void Fill(FragmentId fragment, absl::Span<float> values, OptimizerState& state);
  const absl::Status& status() const { return status_; }

 private:
  const Catalog* const catalog_;
  const Layout* const layout_;
  const uint64_t seed_;
  std::shared_ptr<const TensorFiles> files_;      // null: drawn
  std::vector<float> divisors_;                   // [units] of a dense model; empty: of raw values
  std::unique_ptr<CheckpointReader> checkpoint_;  // before all others, if it is there
  absl::Status status_;                           // of Fill: the first error

  absl::Status OpenFolder(const StartState& start);
  void DivideBranches(FragmentId fragment, absl::Span<float> values) const;
  absl::Status Restore(FragmentId fragment, absl::Span<float> values, OptimizerState& state) const;
};

}  // namespace sdp

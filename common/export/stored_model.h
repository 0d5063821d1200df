#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/base/ids.h"
#include "common/model/catalog.h"
#include "common/model/layout.h"
#include "common/model/llama.h"

namespace sdp {

// What a model's token ids mean.
enum class TokenKind {
  kBytes,  // id = byte value: text needs no tokenizer
  kIds,    // those of a tokenizer that sdp does not have
};

// A trained model at rest, in a run's checkpoint or an exported folder: what export, evaluation and
// generation read, one fragment at a time. The full model's outputs are those of these values with
// `factors`.
struct StoredModel {
  std::string name;  // for people: "runs/first at step 500"
  LlamaSpec llama;
  Catalog catalog;
  Layout layout;                // of `catalog`
  std::vector<double> factors;  // [units] of a unit's output; 1: shared, or folded in already
  int64_t positions = 0;        // tokens that a sequence may have
  TokenKind tokens = TokenKind::kIds;
  std::optional<Step> step;  // of a run: the version
  std::string tokenizer;     // of a run: `data.tokenizer`; ""
  // A fragment's values, `out` [fragment size] f32. Errors name the file. Threads: any, at once.
  std::function<absl::Status(FragmentId fragment, absl::Span<float> out)> read;
};

// An exported folder (it has a config.json), or the newest complete checkpoint of a run (it has a
// config.toml). NotFound - neither; others as OpenExported and OpenRun.
absl::StatusOr<StoredModel> OpenStoredModel(const std::string& path);

}  // namespace sdp

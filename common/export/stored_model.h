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
#include "common/data/image_kinds.h"
#include "common/model/architectures.h"
#include "common/model/catalog.h"
#include "common/model/layout.h"
#include "common/model/norm_values.h"

namespace sdp {

// What a model's token ids mean.
enum class TokenKind {
  kBytes,  // id = byte value: text needs no tokenizer
  kIds,    // those of a tokenizer that sdp does not have
};

// What an image model has instead of tokens.
struct StoredImages {
  const ImageKind* kind = nullptr;  // what it was made for; lives as long as the process
  int64_t image_size = 0, classes = 0;
  std::string config_json;  // of its folder (image_folder.h)
  // BatchNorm's; none: the model is without, or they have to be learnt of these images first, in
  // such batches (0: as evaluation chooses).
  NormValues norms = {};
  std::vector<std::string> training = {};  // of a run: its data.train
  uint64_t augmentation_seed = 0;
  int64_t micro_batch = 0;
};

// A trained model at rest, in a run's checkpoint or an exported folder: what export, evaluation and
// generation read, one fragment at a time. The full model's outputs are those of these values with
// `factors`.
struct StoredModel {
  std::string name;  // for people: "runs/first at step 500"
  ModelSpec model;
  Catalog catalog;
  Layout layout;                // of `catalog`
  std::vector<double> factors;  // [units] of a unit's output; 1: shared, or folded in already
  int64_t positions = 0;        // of text: tokens that a sequence may have
  TokenKind tokens = TokenKind::kIds;
  std::optional<Step> step;                           // of a run: the version
  std::string tokenizer;                              // of a run: `data.tokenizer`; ""
  std::optional<StoredImages> images = std::nullopt;  // none: a language model
  // A fragment's values, `out` [fragment size] f32. Errors name the file. Threads: any, at once.
  std::function<absl::Status(FragmentId fragment, absl::Span<float> out)> read;
};

// An exported folder (it has a config.json), or the newest complete checkpoint of a run (it has a
// config.toml). NotFound - neither; others as OpenExported and OpenRun.
absl::StatusOr<StoredModel> OpenStoredModel(const std::string& path);

}  // namespace sdp

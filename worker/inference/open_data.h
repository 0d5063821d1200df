#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/export/stored_model.h"
#include "worker/data/dataset.h"

namespace sdp {

// Of a language model.
int64_t VocabOf(const StoredModel& model);

// Files of text for a model of bytes, of GPT-2 token shards for another: told apart by a shard's
// first bytes. InvalidArgument - data of the other kind; and as OpenText and OpenTokens.
absl::StatusOr<std::unique_ptr<TokenDataset>> OpenDataFor(const StoredModel& model,
                                                          const std::vector<std::string>& paths,
                                                          int64_t seq_len);

}  // namespace sdp

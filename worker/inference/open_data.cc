#include "worker/inference/open_data.h"

#include <fstream>
#include <variant>

#include "absl/strings/str_cat.h"

namespace sdp {

int64_t VocabOf(const StoredModel& model) { return std::get<LlamaSpec>(model.model).vocab; }

absl::StatusOr<std::unique_ptr<TokenDataset>> OpenDataFor(const StoredModel& model,
                                                          const std::vector<std::string>& paths,
                                                          int64_t seq_len) {
  const bool bytes = model.tokens == TokenKind::kBytes;
  for (const std::string& path : paths) {
    if (!std::ifstream(path) || IsTokenShard(path) != bytes) continue;
    return absl::InvalidArgumentError(
        bytes ? absl::StrCat(path, " has token ids, but the tokens of ", model.name, " are bytes")
              : absl::StrCat(path, " is no GPT-2 token shard, and ", model.name,
                             " has another tokenizer than bytes: only token ids can be read"));
  }
  const int64_t vocab = VocabOf(model);
  return bytes ? OpenText(paths, seq_len, vocab) : OpenTokens(paths, seq_len, vocab);
}

}  // namespace sdp

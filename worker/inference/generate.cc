#include "worker/inference/generate.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/export/stored_model.h"
#include "worker/model/inference_model.h"

namespace sdp {
namespace {

// The prompt as ids.
absl::StatusOr<std::vector<int32_t>> PromptIds(const GenerateRequest& request,
                                               const StoredModel& model) {
  if (!request.prompt_ids.empty()) return request.prompt_ids;
  if (model.tokens != TokenKind::kBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(model.name,
                     " has another tokenizer than bytes, which sdp does not have: give "
                     "token ids, --prompt-ids 1,2,3"));
  }
  if (request.prompt.empty()) {
    return absl::InvalidArgumentError("no prompt to go on from: give --prompt TEXT");
  }
  std::vector<int32_t> ids;
  for (const char byte : request.prompt) ids.push_back(static_cast<unsigned char>(byte));
  return ids;
}

// Writes tokens as they come.
class TokenText {
 public:
  enum class As { kBytes, kIds };
  TokenText(As as, std::ostream& out) : as_(as), out_(out) {}

  absl::Status Write(absl::Span<const int32_t> ids) {
    for (const int32_t id : ids) {
      if (as_ == As::kIds) {
        out_ << (first_ ? "" : " ") << id;
      } else {
        out_.put(static_cast<char>(id));
      }
      first_ = false;
    }
    return Flush();
  }
  absl::Status End() {
    out_ << "\n";
    return Flush();
  }

 private:
  absl::Status Flush() {
    out_ << std::flush;
    return out_ ? absl::OkStatus() : absl::UnavailableError("the output cannot be written");
  }

  const As as_;
  std::ostream& out_;
  bool first_ = true;
};

absl::Status CheckFinite(absl::Span<const float> logits, const StoredModel& model) {
  if (std::all_of(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); })) {
    return absl::OkStatus();
  }
  return absl::OutOfRangeError(absl::StrCat(model.name, ": its logits are not finite"));
}

}  // namespace

absl::Status Generate(const GenerateRequest& request, std::ostream& out, std::ostream& messages) {
  SDP_ASSIGN_OR_RETURN(const StoredModel stored, OpenStoredModel(request.model));
  if (stored.images.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat(stored.name, " is an image model: it has no text to go on with"));
  }
  SDP_ASSIGN_OR_RETURN(std::vector<int32_t> next, PromptIds(request, stored));
  const auto prompt = static_cast<int64_t>(next.size());
  if (prompt > stored.positions) {
    return absl::InvalidArgumentError(absl::StrCat("the prompt has ", prompt, " tokens; ",
                                                   stored.name, " has positions for ",
                                                   stored.positions));
  }
  const int64_t end = std::min(stored.positions, prompt + request.tokens);
  SDP_ASSIGN_OR_RETURN(const std::unique_ptr<InferenceModel> model,
                       LoadInferenceModel(stored, end, request.threads));
  const bool ids = !request.prompt_ids.empty();
  TokenText text(ids ? TokenText::As::kIds : TokenText::As::kBytes, out);
  // The first logits before the first output: an id of the prompt may be wrong.
  SDP_ASSIGN_OR_RETURN(absl::Span<const float> logits, model->Append(next));
  SDP_RETURN_IF_ERROR(text.Write(next));
  for (int64_t position = prompt; position < end; ++position) {
    SDP_RETURN_IF_ERROR(CheckFinite(logits, stored));
    // A vocabulary may be larger than bytes need.
    if (!ids) logits = logits.first(std::min<size_t>(logits.size(), 256));
    next = {SampleToken(logits, request.sampling, position)};
    SDP_RETURN_IF_ERROR(text.Write(next));
    if (position + 1 == end) break;
    SDP_ASSIGN_OR_RETURN(logits, model->Append(next));
  }
  SDP_RETURN_IF_ERROR(text.End());
  if (end < prompt + request.tokens) {
    messages << "sdp: ended after " << end - prompt << " of " << request.tokens
             << " tokens: " << stored.name << " has " << stored.positions << " positions"
             << std::endl;
  }
  return absl::OkStatus();
}

}  // namespace sdp

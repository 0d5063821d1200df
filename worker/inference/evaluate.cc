#include "worker/inference/evaluate.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <numbers>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status.h"
#include "common/data/safetensors_writer.h"
#include "common/export/stored_model.h"
#include "worker/data/dataset.h"
#include "worker/inference/evaluate_images.h"
#include "worker/inference/open_data.h"
#include "worker/inference/stored_exchange.h"
#include "worker/logic/local_model.h"
#include "worker/model/inference_model.h"
#include "worker/model/make_model.h"

namespace sdp {
namespace {

absl::StatusOr<LossSum> SumLosses(const StoredModel& model, const TokenDataset& data,
                                  int64_t samples, int threads) {
  SDP_ASSIGN_OR_RETURN(
      const std::unique_ptr<LocalModel> local,
      MakeTorchModel(model.catalog, model.layout, model.model, &data, &data,
                     {.threads = threads, .memory_bytes = kEvaluationMemoryBytes}));
  StoredExchange exchange(model);
  return local->Evaluate(FullModelTask(model, samples), exchange);
}

template <typename T>
absl::string_view Bytes(absl::Span<const T> values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

absl::Status WriteLogits(const StoredModel& model, const TokenDataset& data, int64_t samples,
                         const EvaluateRequest& request) {
  const int64_t length = data.seq_len();
  SDP_ASSIGN_OR_RETURN(
      const std::unique_ptr<SafetensorsWriter> file,
      SafetensorsWriter::Create(request.logits,
                                {{"tokens", "I64", {samples, length}},
                                 {"logits", "F32", {samples, length, VocabOf(model)}}},
                                {}));
  std::vector<int32_t> tokens(static_cast<size_t>(length) + 1);
  for (int64_t sample = 0; sample < samples; ++sample) {
    data.Read(sample, absl::MakeSpan(tokens));
    const std::vector<int64_t> input(tokens.begin(), tokens.end() - 1);
    SDP_RETURN_IF_ERROR(file->Append(Bytes<int64_t>(input)));
  }
  SDP_ASSIGN_OR_RETURN(const std::unique_ptr<InferenceModel> inference,
                       LoadInferenceModel(model, length, request.threads));
  for (int64_t sample = 0; sample < samples; ++sample) {
    data.Read(sample, absl::MakeSpan(tokens));
    SDP_ASSIGN_OR_RETURN(const absl::Span<const float> logits,
                         inference->Logits(absl::MakeConstSpan(tokens).first(tokens.size() - 1)));
    SDP_RETURN_IF_ERROR(file->Append(Bytes(logits)));
  }
  return file->Finish();
}

std::string Report(const EvaluateRequest& request, const StoredModel& model,
                   const TokenDataset& data, int64_t samples, const LossSum& sum) {
  const double loss = sum.loss_sum / static_cast<double>(sum.terms);
  const bool bytes = model.tokens == TokenKind::kBytes;
  if (request.format == EvaluateRequest::Format::kJson) {
    nlohmann::ordered_json json = {{"loss", loss},
                                   {"perplexity", std::exp(loss)},
                                   {"targets", sum.terms},
                                   {"samples", samples},
                                   {"seq_len", data.seq_len()}};
    if (bytes) json["bits_per_byte"] = loss / std::numbers::ln2;
    return json.dump() + "\n";
  }
  return absl::StrFormat(
      "loss %.4f nats per %s  perplexity %.4f%s  over %d targets, %d samples of %d\n", loss,
      bytes ? "byte" : "token", std::exp(loss),
      bytes ? absl::StrFormat("  %.4f bits per byte", loss / std::numbers::ln2) : "", sum.terms,
      samples, data.seq_len());
}

}  // namespace

absl::Status Evaluate(const EvaluateRequest& request, std::ostream& out) {
  SDP_ASSIGN_OR_RETURN(StoredModel model, OpenStoredModel(request.model));
  if (model.images.has_value()) return EvaluateImages(request, model, out);
  const int64_t seq_len = request.seq_len > 0 ? request.seq_len : model.positions;
  if (seq_len > model.positions) {
    return absl::InvalidArgumentError(absl::StrCat("--seq-len ", seq_len, ": ", model.name, " has ",
                                                   model.positions, " positions"));
  }
  SDP_ASSIGN_OR_RETURN(const std::unique_ptr<TokenDataset> data,
                       OpenDataFor(model, request.data, seq_len));
  const int64_t samples =
      request.samples > 0 ? std::min(request.samples, data->samples()) : data->samples();
  SDP_ASSIGN_OR_RETURN(const LossSum sum, SumLosses(model, *data, samples, request.threads));
  if (!request.logits.empty()) {
    SDP_RETURN_IF_ERROR(WriteLogits(model, *data, samples, request));
  }
  out << Report(request, model, *data, samples, sum) << std::flush;
  return absl::OkStatus();
}

}  // namespace sdp

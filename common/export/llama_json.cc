#include "common/export/llama_json.h"

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace sdp {
namespace {

using Json = nlohmann::json;

// As far above any use as the run's configuration allows (common/config/rules.cc).
constexpr int64_t kLargest = 1'000'000'000;
constexpr int64_t kMostLayers = 10'000;  // each is an object here
// Elements and multiply-accumulates are counted in int64.
constexpr double kLargestCount = 0x1p56;

// Fields that change nothing of what is computed here.
constexpr absl::string_view kIgnored[] = {
    "architectures",
    "attention_dropout",
    "bos_token_id",
    "cache_implementation",
    "dtype",
    "eos_token_id",
    "id2label",
    "initializer_range",
    "is_decoder",
    "label2id",
    "name_or_path",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "pretraining_tp",
    "problem_type",
    "return_dict",
    "tokenizer_class",
    "torch_dtype",
    "transformers_version",
    "use_cache",
};

class Fields {
 public:
  explicit Fields(const Json& json) : json_(json) {}

  // Each of these marks the field as known and keeps the first error.
  int64_t Size(const char* name, int64_t largest) {
    const Json* value = Take(name);
    if (value == nullptr) {
      Fail(absl::StrCat(name, " is missing"));
    } else if (!value->is_number_integer() || *value < 1 || *value > largest) {
      Fail(name, *value, absl::StrCat("a number from 1 to ", largest));
    } else {
      return value->get<int64_t>();
    }
    return 1;
  }
  int64_t SizeOr(const char* name, int64_t fallback, int64_t largest) {
    const Json* value = Take(name);
    return value == nullptr || value->is_null() ? fallback : Size(name, largest);
  }
  double NumberOr(const char* name, double fallback, double largest) {
    const Json* value = Take(name);
    if (value == nullptr) return fallback;
    if (value->is_number() && *value > 0.0 && *value <= largest) return value->get<double>();
    Fail(name, *value, absl::StrCat("a number above 0, at most ", largest));
    return fallback;
  }
  bool FlagOr(const char* name, bool fallback) {
    const Json* value = Take(name);
    if (value == nullptr) return fallback;
    if (value->is_boolean()) return value->get<bool>();
    Fail(name, *value, "true or false");
    return fallback;
  }
  // Absent or null, or this.
  void Only(const char* name, const Json& allowed) {
    const Json* value = Take(name);
    if (value != nullptr && !value->is_null() && *value != allowed) {
      Fail(name, *value, absl::StrCat("only ", allowed.dump()));
    }
  }
  const Json* Take(const char* name) {
    known_.push_back(name);
    const auto it = json_.find(name);
    return it == json_.end() ? nullptr : &*it;
  }
  void Fail(const std::string& error) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(error);
  }
  void Fail(absl::string_view name, const Json& value, absl::string_view allowed) {
    Fail(absl::StrCat(name, " = ", Shown(value), ": ", allowed, " can be computed"));
  }

  const absl::Status& status() const { return status_; }
  // No field is left that was not asked for.
  absl::Status Finish() const {
    if (!status_.ok()) return status_;
    for (const auto& [name, value] : json_.items()) {
      if (absl::StartsWith(name, "_") ||
          std::find(std::begin(kIgnored), std::end(kIgnored), name) != std::end(kIgnored) ||
          std::find(known_.begin(), known_.end(), name) != known_.end()) {
        continue;
      }
      return absl::InvalidArgumentError(
          absl::StrCat(absl::Utf8SafeCEscape(name.substr(0, 100)), " = ", Shown(value),
                       ": this field is not known here, and may change the model"));
    }
    return absl::OkStatus();
  }

 private:
  static std::string Shown(const Json& value) {
    return value.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace)
        .substr(0, 100);
  }

  const Json& json_;
  std::vector<absl::string_view> known_;
  absl::Status status_;
};

// Rotary positions: older files say rope_theta and rope_scaling, newer ones rope_parameters.
void ReadRope(Fields& fields, LlamaSpec* spec) {
  spec->rope_theta = fields.NumberOr("rope_theta", 1e4, 1e12);
  for (const char* name : {"rope_parameters", "rope_scaling"}) {
    const Json* value = fields.Take(name);
    if (value == nullptr || value->is_null()) continue;
    if (!value->is_object()) {
      fields.Fail(name, *value, "an object or null");
      return;
    }
    for (const auto& [key, item] : value->items()) {
      if (key == "rope_theta" && item.is_number() && item > 0.0 && item <= 1e12) {
        spec->rope_theta = item.get<double>();
      } else if ((key != "rope_type" && key != "type") || item != "default") {
        fields.Fail(name, *value, "positions without scaling (rope_type default)");
      }
    }
  }
}

absl::Status CheckSizes(const LlamaFolderConfig& config) {
  const LlamaSpec& spec = config.spec;
  if (spec.dim % spec.heads != 0 || spec.head_dim() % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("hidden_size = ", spec.dim, ", num_attention_heads = ", spec.heads,
                     ": the heads must divide it, into an even width"));
  }
  if (spec.heads % spec.kv_heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_key_value_heads = ", spec.kv_heads,
                     ": must divide num_attention_heads = ", spec.heads));
  }
  const auto dim = static_cast<double>(spec.dim), length = static_cast<double>(config.positions);
  const double layer = dim * (4 * dim + 3 * static_cast<double>(spec.ffn_dim) + 3 * length);
  const double token =
      static_cast<double>(spec.layers) * layer + 2 * dim * static_cast<double>(spec.vocab);
  if (token * length > kLargestCount) {
    return absl::InvalidArgumentError("the model is too large to count in 64 bits");
  }
  return absl::OkStatus();
}

}  // namespace

std::string LlamaConfigJson(const LlamaFolderConfig& config, const std::string& dtype) {
  const LlamaSpec& spec = config.spec;
  const nlohmann::ordered_json json = {
      {"architectures", nlohmann::ordered_json::array({"LlamaForCausalLM"})},
      {"model_type", "llama"},
      {"attention_bias", false},
      {"attention_dropout", 0.0},
      {"bos_token_id", nullptr},
      {"eos_token_id", nullptr},
      {"pad_token_id", nullptr},
      {"head_dim", spec.head_dim()},
      {"hidden_act", "silu"},
      {"hidden_size", spec.dim},
      {"initializer_range", 0.02},
      {"intermediate_size", spec.ffn_dim},
      {"max_position_embeddings", config.positions},
      {"mlp_bias", false},
      {"num_attention_heads", spec.heads},
      {"num_hidden_layers", spec.layers},
      {"num_key_value_heads", spec.kv_heads},
      {"rms_norm_eps", spec.norm_eps},
      {"rope_scaling", nullptr},
      {"rope_theta", spec.rope_theta},
      {"tie_word_embeddings", spec.tied},
      {"torch_dtype", dtype},
      {"use_cache", true},
      {"vocab_size", spec.vocab},
  };
  return json.dump(2) + "\n";
}

absl::StatusOr<LlamaFolderConfig> ParseLlamaConfig(absl::string_view text) {
  const Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError("it is no JSON object");
  Fields fields(json);
  const Json* type = fields.Take("model_type");
  if (type == nullptr || *type != "llama") {
    fields.Fail("model_type", type == nullptr ? Json() : *type, "only \"llama\"");
  }
  LlamaFolderConfig config;
  LlamaSpec& spec = config.spec;
  spec.dim = fields.Size("hidden_size", kLargest);
  spec.layers = fields.Size("num_hidden_layers", kMostLayers);
  spec.heads = fields.Size("num_attention_heads", kLargest);
  spec.kv_heads = fields.SizeOr("num_key_value_heads", spec.heads, kLargest);
  spec.ffn_dim = fields.Size("intermediate_size", kLargest);
  spec.vocab = fields.Size("vocab_size", kLargest);
  spec.norm_eps = fields.NumberOr("rms_norm_eps", 1e-6, 1);  // LlamaConfig's default
  spec.tied = fields.FlagOr("tie_word_embeddings", false);
  config.positions = fields.SizeOr("max_position_embeddings", 2048, kLargest);
  SDP_RETURN_IF_ERROR(fields.status());
  SDP_RETURN_IF_ERROR(CheckSizes(config));
  ReadRope(fields, &spec);
  fields.Only("head_dim", spec.dim / spec.heads);
  fields.Only("hidden_act", "silu");
  fields.Only("attention_bias", false);
  fields.Only("mlp_bias", false);
  SDP_RETURN_IF_ERROR(fields.Finish());
  return config;
}

}  // namespace sdp

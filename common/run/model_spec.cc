#include "common/run/model_spec.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace sdp {
namespace {

LlamaSpec LlamaSpecFrom(const RunConfig::Model& model) {
  LlamaSpec spec;
  spec.dim = model.dim();
  spec.layers = model.layers();
  spec.heads = model.heads();
  spec.kv_heads = model.kv_heads();
  spec.ffn_dim = model.ffn_dim();
  spec.vocab = model.vocab();
  spec.rope_theta = model.rope_theta();
  spec.norm_eps = model.norm_eps();
  spec.tied = model.tied();
  return spec;
}

}  // namespace

absl::StatusOr<ModelSpec> ModelSpecFrom(const RunConfig& config) {
  const RunConfig::Model& model = config.model();
  if (model.arch() == "llama") return LlamaSpecFrom(model);
  return absl::InvalidArgumentError(
      absl::StrCat("model.arch = \"", model.arch(), "\": allowed is \"llama\""));
}

}  // namespace sdp

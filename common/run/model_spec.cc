#include "common/run/model_spec.h"

#include <cstdint>
#include <string>

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

constexpr int64_t kChannels = 3;  // of an image

absl::Status NotAllowed(const char* key, const std::string& value, const char* allowed) {
  return absl::InvalidArgumentError(
      absl::StrCat("model.", key, " = \"", value, "\": allowed ", allowed));
}

absl::StatusOr<ResnetSpec> ResnetSpecFrom(const RunConfig::Model& model) {
  ResnetSpec spec;
  spec.widths.assign(model.widths().begin(), model.widths().end());
  spec.depths.assign(model.depths().begin(), model.depths().end());
  if (model.stem() == "imagenet") {
    spec.stem = ResnetSpec::Stem::kImagenet;
  } else if (model.stem() != "cifar") {
    return NotAllowed("stem", model.stem(), "are \"cifar\", \"imagenet\"");
  }
  if (model.activation() == "pre") {
    spec.order = ResnetSpec::Order::kPre;
  } else if (model.activation() != "post") {
    return NotAllowed("activation", model.activation(), "are \"post\", \"pre\"");
  }
  if (model.norm() != "group" && model.norm() != "batch") {
    return NotAllowed("norm", model.norm(), "are \"group\", \"batch\"");
  }
  spec.norm_groups = model.norm() == "group" ? model.norm_groups() : 0;
  spec.norm_eps = model.norm_eps();
  spec.channels = kChannels;
  spec.image_size = model.image_size();
  spec.classes = model.classes();
  return spec;
}

ImageMlpSpec ImageMlpSpecFrom(const RunConfig::Model& model) {
  return {.dim = model.dim(),
          .layers = model.layers(),
          .ffn_dim = model.ffn_dim(),
          .inputs = kChannels * model.image_size() * model.image_size(),
          .classes = model.classes()};
}

SwinSpec SwinSpecFrom(const RunConfig::Model& model) {
  SwinSpec spec;
  spec.dim = model.dim();
  spec.depths.assign(model.depths().begin(), model.depths().end());
  spec.heads.assign(model.level_heads().begin(), model.level_heads().end());
  spec.window = model.window();
  spec.patch = model.patch();
  spec.mlp_ratio = model.mlp_ratio();
  spec.norm_eps = model.norm_eps();
  spec.channels = kChannels;
  spec.image_size = model.image_size();
  spec.classes = model.classes();
  return spec;
}

}  // namespace

absl::StatusOr<ModelSpec> ModelSpecFrom(const RunConfig& config) {
  const RunConfig::Model& model = config.model();
  if (model.arch() == "llama") return LlamaSpecFrom(model);
  if (model.arch() == "resnet") return ResnetSpecFrom(model);
  if (model.arch() == "mlp") return ImageMlpSpecFrom(model);
  if (model.arch() == "swin") return SwinSpecFrom(model);
  return NotAllowed("arch", model.arch(), "are \"llama\", \"resnet\", \"mlp\", \"swin\"");
}

}  // namespace sdp

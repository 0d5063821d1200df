#include "worker/model/llama.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/model/llama_memory.h"
#include "worker/model/attention.h"
#include "worker/model/decode_attention.h"
#include "worker/model/embedding.h"
#include "worker/model/head_loss.h"
#include "worker/model/mlp.h"

namespace sdp {
namespace {

constexpr char kEmbedding[] = "model.embed_tokens.weight";

class EmbedStage : public Stage {
 public:
  std::vector<WeightNames> Weights() const override { return {{kEmbedding}}; }
  at::Tensor Forward(const at::Tensor& h, absl::Span<const at::Tensor> weights,
                     double) const override {
    return Embedding(weights[0], h);
  }
  bool BackwardReadsWeights() const override { return false; }
};

class AttentionStage : public Stage {
 public:
  AttentionStage(const LlamaSpec& spec, int64_t layer, std::shared_ptr<const Rotary> rotary)
      : prefix_(absl::StrCat("model.layers.", layer, ".")),
        eps_(spec.norm_eps),
        rotary_(std::move(rotary)) {}

  std::vector<WeightNames> Weights() const override {
    const std::string attention = prefix_ + "self_attn.";
    return {{prefix_ + "input_layernorm.weight"},
            {attention + "q_proj.weight", attention + "k_proj.weight", attention + "v_proj.weight"},
            {attention + "o_proj.weight"}};
  }
  at::Tensor Forward(const at::Tensor& h, absl::Span<const at::Tensor> weights,
                     double factor) const override {
    return AttentionBranch(h, {weights[0], weights[1], weights[2]}, *rotary_, eps_, factor);
  }
  at::Tensor Train(const at::Tensor& h, absl::Span<const at::Tensor> weights,
                   absl::Span<const TrainedPart> parts, double factor) const override {
    return AttentionBranch(h, {weights[0], weights[1], weights[2]}, *rotary_, eps_, factor,
                           {parts[1], parts[2]});
  }
  at::Tensor Decode(const at::Tensor& h, absl::Span<const at::Tensor> weights, double factor,
                    KeyValueCache& cache) const override {
    return DecodeAttention(h, {weights[0], weights[1], weights[2]}, *rotary_, eps_, factor, cache);
  }

 private:
  const std::string prefix_;
  const double eps_;
  const std::shared_ptr<const Rotary> rotary_;  // The same for all layers.
};

class MlpStage : public Stage {
 public:
  MlpStage(const LlamaSpec& spec, int64_t layer)
      : prefix_(absl::StrCat("model.layers.", layer, ".")), eps_(spec.norm_eps) {}

  std::vector<WeightNames> Weights() const override {
    return {{prefix_ + "post_attention_layernorm.weight"},
            {prefix_ + "mlp.gate_proj.weight", prefix_ + "mlp.up_proj.weight"},
            {prefix_ + "mlp.down_proj.weight"}};
  }
  at::Tensor Forward(const at::Tensor& h, absl::Span<const at::Tensor> weights,
                     double factor) const override {
    return MlpBranch(h, {weights[0], weights[1], weights[2]}, eps_, factor);
  }
  at::Tensor Train(const at::Tensor& h, absl::Span<const at::Tensor> weights,
                   absl::Span<const TrainedPart> parts, double factor) const override {
    return MlpBranch(h, {weights[0], weights[1], weights[2]}, eps_, factor, {parts[1], parts[2]});
  }

 private:
  const std::string prefix_;
  const double eps_;
};

class HeadStage : public LossStage {
 public:
  explicit HeadStage(const LlamaSpec& spec)
      : tied_(spec.tied), eps_(spec.norm_eps), chunk_(LlamaHeadChunk(spec.vocab)) {}

  std::vector<WeightNames> Weights() const override {
    return {{"model.norm.weight"}, {tied_ ? kEmbedding : "lm_head.weight"}};
  }
  at::Tensor Loss(const at::Tensor& h, const at::Tensor& target,
                  absl::Span<const at::Tensor> weights, double scale) const override {
    return HeadLoss(h, target, {weights[0], weights[1]}, eps_, scale, chunk_);
  }
  bool BackwardReadsWeights() const override { return false; }  // Gradients come with the loss.
  at::Tensor Logits(const at::Tensor& h, absl::Span<const at::Tensor> weights) const override {
    return HeadLogits(h, {weights[0], weights[1]}, eps_);
  }

 private:
  const bool tied_;
  const double eps_;
  const int64_t chunk_;
};

}  // namespace

Network LlamaNetwork(const LlamaSpec& spec, int64_t seq_len, at::Device device) {
  const auto rotary =
      std::make_shared<const Rotary>(seq_len, spec.head_dim(), spec.rope_theta, device);
  Network network;
  network.stages.push_back(std::make_unique<EmbedStage>());
  for (int64_t layer = 0; layer < spec.layers; ++layer) {
    network.stages.push_back(std::make_unique<AttentionStage>(spec, layer, rotary));
    network.stages.push_back(std::make_unique<MlpStage>(spec, layer));
  }
  network.loss = std::make_unique<HeadStage>(spec);
  return network;
}

}  // namespace sdp

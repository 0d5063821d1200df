#pragma once

#include <bit>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/model/llama.h"
#include "tests/cluster_process/temp_folder.h"
#include "tests/data/files.h"

namespace sdp {

// A dense LLaMA in a folder as other programs write it, made by hand: config.json in its older
// form, three files of weights with an index, tensors of the three types in turn. Each value is one
// that all types have exactly.
struct DenseFolder {
  LlamaSpec spec = {.dim = 16,
                    .layers = 4,
                    .heads = 4,
                    .kv_heads = 2,
                    .ffn_dim = 24,
                    .vocab = 256,
                    .rope_theta = 5e4,
                    .norm_eps = 1e-6,
                    .tied = true};
  int64_t positions = 64;
  std::string more_config;  // further fields, each with its comma in front

  struct Tensor {
    std::string name;
    std::vector<int64_t> shape;
  };
  std::vector<Tensor> Tensors() const {
    const int64_t d = spec.dim, keys = spec.dim / spec.heads * spec.kv_heads, f = spec.ffn_dim;
    std::vector<Tensor> all = {{"model.embed_tokens.weight", {spec.vocab, d}}};
    for (int64_t i = 0; i < spec.layers; ++i) {
      const std::string layer = absl::StrCat("model.layers.", i, ".");
      for (const Tensor& tensor : std::vector<Tensor>{{"input_layernorm.weight", {d}},
                                                      {"self_attn.q_proj.weight", {d, d}},
                                                      {"self_attn.k_proj.weight", {keys, d}},
                                                      {"self_attn.v_proj.weight", {keys, d}},
                                                      {"self_attn.o_proj.weight", {d, d}},
                                                      {"post_attention_layernorm.weight", {d}},
                                                      {"mlp.gate_proj.weight", {f, d}},
                                                      {"mlp.up_proj.weight", {f, d}},
                                                      {"mlp.down_proj.weight", {d, f}}}) {
        all.push_back({layer + tensor.name, tensor.shape});
      }
    }
    all.push_back({"model.norm.weight", {d}});
    if (!spec.tied) all.push_back({"lm_head.weight", {spec.vocab, d}});
    return all;
  }

  // Norms around 1.25, other weights up to 1/4: a multiple of 2^-6 or of 2^-9, of 7 bits.
  static float Value(const std::string& name, int64_t element) {
    uint64_t mixed = static_cast<uint64_t>(element) + 1;
    for (const char c : name) mixed = (mixed ^ static_cast<uint8_t>(c)) * 0x100000001b3;
    mixed ^= mixed >> 29;
    if (absl::StrContains(name, "norm")) return 1 + static_cast<float>(mixed % 32) / 64;
    return (static_cast<float>(mixed % 255) - 127) / 512;
  }

  void Write(const std::string& folder) const {
    std::filesystem::create_directories(folder);
    WriteAll(
        folder + "/config.json",
        absl::StrCat("{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", ",
                     "\"hidden_size\": ", spec.dim, ", \"num_hidden_layers\": ", spec.layers,
                     ", \"num_attention_heads\": ", spec.heads,
                     ", \"num_key_value_heads\": ", spec.kv_heads,
                     ", \"intermediate_size\": ", spec.ffn_dim, ", \"vocab_size\": ", spec.vocab,
                     ", \"rms_norm_eps\": ", spec.norm_eps, ", \"rope_theta\": ", spec.rope_theta,
                     ", \"hidden_act\": \"silu\"", ", \"max_position_embeddings\": ", positions,
                     ", \"tie_word_embeddings\": ", spec.tied ? "true" : "false",
                     ", \"bos_token_id\": 1, \"torch_dtype\": \"bfloat16\"", more_config, "}"));
    std::vector<std::vector<TensorToWrite>> parts(3);
    std::vector<std::string> map;
    const std::vector<Tensor> tensors = Tensors();
    for (size_t t = 0; t < tensors.size(); ++t) {
      // Neither a part's types nor the order of parts follows the tensors'.
      const size_t part = 2 - t % 3;
      parts[part].push_back(ToWrite(tensors[t], t / 2 % 3));
      map.push_back(absl::StrCat("\"", tensors[t].name, "\": \"", PartName(part), "\""));
    }
    for (size_t part = 0; part < parts.size(); ++part) {
      WriteAll(folder + "/" + PartName(part), SafetensorsBytes(parts[part]));
    }
    WriteAll(folder + "/model.safetensors.index.json",
             absl::StrCat("{\"metadata\": {}, \"weight_map\": {", absl::StrJoin(map, ", "), "}}"));
  }

  static std::string PartName(size_t part) {
    return absl::StrCat("model-0000", part + 1, "-of-00003.safetensors");
  }

 private:
  // Type 0: BF16, the upper half of an f32; 1: F32; 2: F16. All are exact.
  static TensorToWrite ToWrite(const Tensor& tensor, size_t type) {
    int64_t elements = 1;
    for (const int64_t size : tensor.shape) elements *= size;
    std::vector<float> wide;
    std::vector<uint16_t> narrow;
    for (int64_t i = 0; i < elements; ++i) {
      wide.push_back(Value(tensor.name, i));
      const auto bits = std::bit_cast<uint32_t>(wide.back());
      const uint32_t exponent = bits >> 23 & 0xff, sign = bits >> 31 << 15;
      const uint32_t half =
          exponent == 0 ? sign : sign | (exponent - 112) << 10 | (bits >> 13 & 0x3ff);
      narrow.push_back(static_cast<uint16_t>(type == 0 ? bits >> 16 : half));
    }
    constexpr const char* kTypes[] = {"BF16", "F32", "F16"};
    return {tensor.name, kTypes[type], tensor.shape, type == 1 ? AsBytes(wide) : AsBytes(narrow)};
  }
};

}  // namespace sdp

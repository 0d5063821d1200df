#include "common/export/llama_json.h"

#include <nlohmann/json.hpp>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sdp {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

LlamaFolderConfig Config() {
  LlamaFolderConfig config;
  config.spec = {.dim = 64, .layers = 3, .heads = 4, .kv_heads = 2, .ffn_dim = 100, .vocab = 300};
  config.positions = 128;
  return config;
}

Json Written() { return Json::parse(LlamaConfigJson(Config(), "float32")); }

TEST(LlamaJsonTest, WhatMayChangeTheModel_IsRefusedByName) {
  const struct {
    const char* field;
    Json value;
  } cases[] = {
      {"model_type", "mistral"},
      {"model_type", nullptr},
      {"hidden_act", "gelu"},
      {"attention_bias", true},
      {"mlp_bias", true},
      {"head_dim", 32},
      {"rope_scaling", {{"rope_type", "llama3"}, {"factor", 8.0}}},
      {"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}},
      {"rope_scaling", "linear"},
      {"rope_parameters", {{"rope_type", "yarn"}, {"rope_theta", 1e4}}},
      {"rope_parameters", {{"rope_theta", -1}}},
      {"sliding_window", 4096},
      {"quantization_config", {{"bits", 4}}},
      {"hidden_size", 0},
      {"hidden_size", 66},
      {"hidden_size", 1e30},
      {"hidden_size", 18446744073709551615u},
      {"hidden_size", "64"},
      {"num_attention_heads", 64},  // of one element each
      {"num_attention_heads", 5},
      {"num_key_value_heads", 3},
      {"num_hidden_layers", 1000000000},
      {"vocab_size", -300},
      {"max_position_embeddings", 0},
      {"rms_norm_eps", 0},
      {"rope_theta", "1e4"},
      {"tie_word_embeddings", 1},
  };
  for (const auto& c : cases) {
    Json json = Written();
    json[c.field] = c.value;
    const absl::Status status = ParseLlamaConfig(json.dump()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.field << " " << c.value;
    EXPECT_THAT(status.message(), HasSubstr(c.field)) << c.value;
  }
}

TEST(LlamaJsonTest, TooLargeToCount_IsRefused) {
  Json json = Written();
  json["hidden_size"] = 1000000000;
  json["intermediate_size"] = 1000000000;
  EXPECT_EQ(ParseLlamaConfig(json.dump()).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(LlamaJsonTest, NoConfigAtAll_IsRefused) {
  for (const char* text : {"", "null", "[]", "{}", "{\"model_type\": \"llama\"", "\xff\xfe"}) {
    EXPECT_EQ(ParseLlamaConfig(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(LlamaJsonTest, Written_IsReadAgain) {
  for (const bool tied : {false, true}) {
    LlamaFolderConfig config = Config();
    config.spec.rope_theta = 5e5;
    config.spec.norm_eps = 1e-6;
    config.spec.tied = tied;
    const auto parsed = ParseLlamaConfig(LlamaConfigJson(config, "bfloat16"));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(parsed->positions, 128);
    EXPECT_EQ(parsed->spec.dim, 64);
    EXPECT_EQ(parsed->spec.layers, 3);
    EXPECT_EQ(parsed->spec.heads, 4);
    EXPECT_EQ(parsed->spec.kv_heads, 2);
    EXPECT_EQ(parsed->spec.ffn_dim, 100);
    EXPECT_EQ(parsed->spec.vocab, 300);
    EXPECT_EQ(parsed->spec.rope_theta, 5e5);
    EXPECT_EQ(parsed->spec.norm_eps, 1e-6);
    EXPECT_EQ(parsed->spec.tied, tied);
  }
}

// As transformers 4 and 5 write them: defaults left out, theta in its new place.
TEST(LlamaJsonTest, OthersSpellings_AreUnderstood) {
  Json json = Written();
  for (const char* field : {"head_dim", "rope_scaling", "rope_theta", "mlp_bias", "attention_bias",
                            "num_key_value_heads", "tie_word_embeddings"}) {
    json.erase(field);
  }
  json["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 2e4}};
  json["_name_or_path"] = "somewhere";
  json["transformers_version"] = "5.0.0";
  const auto parsed = ParseLlamaConfig(json.dump());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->spec.kv_heads, 4);
  EXPECT_EQ(parsed->spec.rope_theta, 2e4);
  EXPECT_FALSE(parsed->spec.tied);
}

// Absent, transformers would take 1 and 2 for begin and end: bytes that mean nothing of the kind.
TEST(LlamaJsonTest, Written_HasNoSpecialTokens) {
  EXPECT_TRUE(Written().at("bos_token_id").is_null());
  EXPECT_TRUE(Written().at("eos_token_id").is_null());
}

}  // namespace
}  // namespace sdp

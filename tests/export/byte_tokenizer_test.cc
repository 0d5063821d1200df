#include "common/export/byte_tokenizer.h"

#include <nlohmann/json.hpp>

#include "gtest/gtest.h"

namespace sdp {
namespace {

using Json = nlohmann::json;

// Whether tokenizers reads it so is checked by tests/interop/transformers.
TEST(ByteTokenizerTest, IdsAreBytes) {
  const Json vocab = Json::parse(ByteTokenizerJson())["model"]["vocab"];
  EXPECT_EQ(vocab.size(), 256u);
  EXPECT_EQ(vocab["A"], 'A');
  EXPECT_EQ(vocab["~"], '~');
  EXPECT_EQ(vocab["Ġ"], ' ');   // U+0120: the 33rd that does not stand for itself
  EXPECT_EQ(vocab["Ċ"], '\n');  // U+010A
  EXPECT_EQ(vocab["Ā"], 0);
  EXPECT_EQ(vocab["ÿ"], 255);
  EXPECT_EQ(vocab["Ń"], 0xAD);  // U+0143, the last
}

TEST(ByteTokenizerTest, IsKnownAgain) {
  EXPECT_TRUE(IsByteTokenizer(ByteTokenizerJson()));
  EXPECT_TRUE(IsByteTokenizer(Json::parse(ByteTokenizerJson()).dump()));
}

TEST(ByteTokenizerTest, OthersAreNotTakenForIt) {
  const auto changed = [](auto&& change) {
    Json json = Json::parse(ByteTokenizerJson());
    change(json);
    return IsByteTokenizer(json.dump());
  };
  EXPECT_FALSE(changed([](Json& j) { j["model"]["vocab"]["A"] = 66; }));
  EXPECT_FALSE(changed([](Json& j) { j["model"]["vocab"]["ab"] = 256; }));
  EXPECT_FALSE(changed([](Json& j) { j["model"]["merges"] = {"a b"}; }));
  EXPECT_FALSE(changed([](Json& j) { j["model"]["type"] = "Unigram"; }));
  EXPECT_FALSE(changed([](Json& j) { j["added_tokens"] = {{{"id", 0}}}; }));
  EXPECT_FALSE(changed([](Json& j) { j["normalizer"] = {{"type", "NFC"}}; }));
  EXPECT_FALSE(changed([](Json& j) { j["pre_tokenizer"]["add_prefix_space"] = true; }));
  EXPECT_FALSE(changed([](Json& j) { j["pre_tokenizer"] = nullptr; }));
  for (const char* text : {"", "{}", "[]", "{\"model\": 1}", "{\"model\": {\"vocab\": []}}"}) {
    EXPECT_FALSE(IsByteTokenizer(text)) << text;
  }
}

}  // namespace
}  // namespace sdp

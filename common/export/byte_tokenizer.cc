#include "common/export/byte_tokenizer.h"

#include <array>
#include <nlohmann/json.hpp>

namespace sdp {
namespace {

using Json = nlohmann::ordered_json;

// How byte-level BPE writes a byte in its vocabulary: printable Latin-1 characters stand for
// themselves, the others, in order, for code points from 256 on.
std::array<std::string, 256> ByteNames() {
  std::array<std::string, 256> names;
  uint32_t next = 256;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool itself =
        (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    const uint32_t point = itself ? byte : next++;
    std::string& name = names[byte];
    if (point >= 0x80) name.push_back(static_cast<char>(0xC0 | (point >> 6)));
    name.push_back(static_cast<char>(point >= 0x80 ? 0x80 | (point & 0x3F) : point));
  }
  return names;
}

bool IsEmpty(const Json& json, const char* field) {
  const auto it = json.find(field);
  return it == json.end() || it->is_null() || (it->is_array() && it->empty());
}

Json At(const Json& json, const char* field) {
  const auto it = json.find(field);
  return it == json.end() ? Json() : *it;
}

}  // namespace

std::string ByteTokenizerJson() {
  const std::array<std::string, 256> names = ByteNames();
  Json vocab = Json::object();
  for (size_t byte = 0; byte < names.size(); ++byte) vocab[names[byte]] = byte;
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", false},
                           {"use_regex", false}};
  const Json json = {{"version", "1.0"},
                     {"truncation", nullptr},
                     {"padding", nullptr},
                     {"added_tokens", Json::array()},
                     {"normalizer", nullptr},
                     {"pre_tokenizer", byte_level},
                     {"post_processor", nullptr},
                     {"decoder", byte_level},
                     {"model",
                      {{"type", "BPE"},
                       {"dropout", nullptr},
                       {"unk_token", nullptr},
                       {"continuing_subword_prefix", nullptr},
                       {"end_of_word_suffix", nullptr},
                       {"fuse_unk", false},
                       {"byte_fallback", false},
                       {"ignore_merges", false},
                       {"vocab", vocab},
                       {"merges", Json::array()}}}};
  return json.dump(2) + "\n";
}

std::string TokenizerConfigJson(int64_t max_positions) {
  const Json json = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                     {"model_max_length", max_positions},
                     {"clean_up_tokenization_spaces", false}};
  return json.dump(2) + "\n";
}

bool IsByteTokenizer(absl::string_view text) {
  const Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return false;
  const Json model = At(json, "model"), before = At(json, "pre_tokenizer");
  if (!model.is_object() || !before.is_object() || At(model, "type") != "BPE" ||
      At(before, "type") != "ByteLevel" || At(before, "add_prefix_space") != false ||
      !IsEmpty(json, "normalizer") || !IsEmpty(json, "added_tokens") || !IsEmpty(model, "merges")) {
    return false;
  }
  const Json vocab = At(model, "vocab");
  const std::array<std::string, 256> names = ByteNames();
  if (!vocab.is_object() || vocab.size() != names.size()) return false;
  for (size_t byte = 0; byte < names.size(); ++byte) {
    if (At(vocab, names[byte].c_str()) != byte) return false;
  }
  return true;
}

}  // namespace sdp

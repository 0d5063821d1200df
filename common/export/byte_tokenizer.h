#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace sdp {

// The tokenizer of a model of bytes: a token's id is the byte's value; there are no special tokens.
// In Hugging Face's tokenizers this is byte-level BPE without merges.
std::string ByteTokenizerJson();                         // tokenizer.json
std::string TokenizerConfigJson(int64_t max_positions);  // tokenizer_config.json

// Whether a tokenizer.json, whatever the text, gives each byte its value as id and nothing else.
bool IsByteTokenizer(absl::string_view json);

}  // namespace sdp

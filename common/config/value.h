// Value: one value of a configuration, apart from the TOML library and from protobuf, and its text
// in TOML. Threads: plain data.   Errors: none; every Value has a text.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "absl/strings/string_view.h"

namespace sdp::config {

// A TOML value that no key takes (a date, a table), as it is called in messages.
struct Unsupported {
  std::string name;
};

struct Value;
using List = std::vector<Value>;

struct Value {
  std::variant<bool, int64_t, double, std::string, List, Unsupported> is;
};

// Text that TOML reads back as the same value: doubles in the shortest form that round-trips,
// strings quoted and escaped. Also how messages show a value.
std::string TomlText(const Value& value);

// `text` as a TOML basic string, with quotes.
std::string Quoted(absl::string_view text);

}  // namespace sdp::config

// Value: one value of a configuration, apart from the TOML library and from protobuf, and its text
// in TOML. Threads: plain data.   Errors: none; every Value has a text.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "absl/strings/string_view.h"

namespace sdp::config {

// A TOML value that no key takes (a date, a list in a list), as it is called in messages.
struct Unsupported {
  std::string name;
};

struct Value;
struct Entry;
using List = std::vector<Value>;
using Table = std::vector<Entry>;  // In the order of the names, each there once.

struct Value {
  std::variant<bool, int64_t, double, std::string, List, Table, Unsupported> is;
};

struct Entry {
  std::string name;
  Value value;
};

// Text that TOML reads back as the same value: doubles in the shortest form that round-trips,
// strings quoted and escaped, tables in one line. Also how messages show a value.
std::string TomlText(const Value& value);

// `text` as a TOML basic string, with quotes.
std::string Quoted(absl::string_view text);

}  // namespace sdp::config

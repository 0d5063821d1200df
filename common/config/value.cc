#include "common/config/value.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"

namespace sdp::config {
namespace {

std::string DoubleText(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number > 0 ? "inf" : "-inf";
  std::array<char, 32> buffer;  // The shortest form of a double has at most 24 characters.
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), number).ptr;
  std::string text(buffer.data(), end);
  const size_t exponent = text.find('e');
  if (exponent != std::string::npos) {
    // to_chars pads exponents ("1e-08"); people write 1e-8.
    size_t digits = exponent + 1;
    if (text[digits] == '+') text.erase(digits, 1);
    if (text[digits] == '-') ++digits;
    while (digits + 1 < text.size() && text[digits] == '0') text.erase(digits, 1);
  } else if (text.find('.') == std::string::npos) {
    text += ".0";  // Without it TOML reads an integer.
  }
  return text;
}

// A name as TOML takes it before '='.
std::string NameText(const std::string& name) {
  const bool bare = !name.empty() && absl::c_all_of(name, [](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '-' || c == '_';
  });
  return bare ? name : Quoted(name);
}

struct Writer {
  std::string operator()(bool flag) const { return flag ? "true" : "false"; }
  std::string operator()(int64_t number) const { return absl::StrCat(number); }
  std::string operator()(double number) const { return DoubleText(number); }
  std::string operator()(const std::string& text) const { return Quoted(text); }
  std::string operator()(const List& list) const {
    return absl::StrCat("[",
                        absl::StrJoin(list, ", ",
                                      [](std::string* out, const Value& item) {
                                        absl::StrAppend(out, TomlText(item));
                                      }),
                        "]");
  }
  std::string operator()(const Table& table) const {
    if (table.empty()) return "{}";
    return absl::StrCat("{ ",
                        absl::StrJoin(table, ", ",
                                      [](std::string* out, const Entry& entry) {
                                        absl::StrAppend(out, NameText(entry.name), " = ",
                                                        TomlText(entry.value));
                                      }),
                        " }");
  }
  std::string operator()(const Unsupported& other) const { return other.name; }
};

}  // namespace

std::string TomlText(const Value& value) { return std::visit(Writer{}, value.is); }

std::string Quoted(absl::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      absl::StrAppendFormat(&out, "\\u%04X", byte);
    } else {
      out += c;
    }
  }
  out += '"';
  return out;
}

}  // namespace sdp::config

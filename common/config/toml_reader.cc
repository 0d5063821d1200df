#include "common/config/toml_reader.h"

#define TOML_EXCEPTIONS 0
// What a user writes must end in an error, never in an abort: this parser asserts, before it checks
// it, that a table's name begins like a key, and with NDEBUG it would take that for granted.
#undef NDEBUG
#define TOML_ASSERT(expression) static_cast<void>(0)
#include <toml++/toml.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/config/value.h"

namespace sdp::config {
namespace {

// No key's value is deeper than a list of tables of lists or tables, which bounds the recursion.
constexpr int kDeepest = 2;

// `inside`: what `node` is an item of, or empty; `depth`: how many lists and tables it is in.
Value Convert(const toml::node& node, absl::string_view inside = "", int depth = 0) {
  switch (node.type()) {
    case toml::node_type::boolean:
      return {node.as_boolean()->get()};
    case toml::node_type::integer:
      return {node.as_integer()->get()};
    case toml::node_type::floating_point:
      return {node.as_floating_point()->get()};
    case toml::node_type::string:
      return {node.as_string()->get()};
    case toml::node_type::array: {
      if (inside == "list" || depth > kDeepest) {
        return {Unsupported{absl::StrCat("a list in a ", inside)}};
      }
      List list;
      for (const toml::node& item : *node.as_array()) {
        list.push_back(Convert(item, "list", depth + 1));
      }
      return {std::move(list)};
    }
    case toml::node_type::table: {
      if (depth > kDeepest) return {Unsupported{absl::StrCat("a table in a ", inside)}};
      Table table;
      for (const auto& [name, item] : *node.as_table()) {
        table.push_back({std::string(name.str()), Convert(item, "table", depth + 1)});
      }
      return {std::move(table)};
    }
    default:
      return {Unsupported{"a date or time"}};
  }
}

uint32_t LineOf(const toml::key& key, const toml::node& node) {
  const uint32_t line = key.source().begin.line;
  return line != 0 ? line : node.source().begin.line;
}

}  // namespace

absl::StatusOr<std::vector<Setting>> ReadToml(absl::string_view text, absl::string_view name) {
  const toml::parse_result parsed = toml::parse(std::string_view(text.data(), text.size()));
  if (!parsed) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ":", parsed.error().source().begin.line,
                     ": not valid TOML: ", std::string(parsed.error().description())));
  }
  // The library's tables are sorted by name; messages should follow the file.
  std::vector<std::pair<uint32_t, Setting>> found;
  const auto add = [&](std::string section, const toml::key& key, Value value, uint32_t line) {
    Setting setting;
    setting.section = std::move(section);
    setting.key = std::string(key.str());
    setting.value = std::move(value);
    setting.origin = absl::StrCat(name, ":", line);
    found.emplace_back(line, std::move(setting));
  };
  for (const auto& [top_key, top] : parsed.table()) {
    const toml::table* const table = top.as_table();
    const uint32_t line = LineOf(top_key, top);
    if (table == nullptr || table->empty()) {
      add("", top_key, Convert(top), line);
      found.back().second.is_empty_section = table != nullptr;
      continue;
    }
    const std::string section(top_key.str());
    for (const auto& [key, node] : *table) add(section, key, Convert(node), LineOf(key, node));
  }
  std::stable_sort(found.begin(), found.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<Setting> settings;
  settings.reserve(found.size());
  for (auto& [line, setting] : found) settings.push_back(std::move(setting));
  return settings;
}

absl::StatusOr<Value> ReadValue(absl::string_view text) {
  const std::string line = absl::StrCat("x = ", text);
  const toml::parse_result parsed = toml::parse(std::string_view(line));
  // A line break could smuggle in a second key.
  if (!parsed || parsed.table().size() != 1 || !parsed.table().contains("x")) {
    return absl::InvalidArgumentError(absl::StrCat(text, " is not a TOML value"));
  }
  return Convert(*parsed.table().get("x"));
}

absl::StatusOr<Setting> ReadOverride(absl::string_view argument) {
  const auto equals = argument.find('=');
  const absl::string_view name = absl::StripAsciiWhitespace(argument.substr(0, equals));
  const auto dot = name.find('.');
  if (equals == absl::string_view::npos || dot == absl::string_view::npos || dot == 0 ||
      dot + 1 == name.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--set ", argument, ": must be section.key=value, such as --set train.lr=3e-4"));
  }
  Setting setting;
  setting.section = std::string(name.substr(0, dot));
  setting.key = std::string(name.substr(dot + 1));
  setting.origin = "--set";
  const absl::string_view text = absl::StripAsciiWhitespace(argument.substr(equals + 1));
  absl::StatusOr<Value> value = ReadValue(text);
  // Through the reader again as a string, for it refuses what is not UTF-8.
  const absl::StatusOr<Value> as_string = ReadValue(Quoted(text));
  if (!value.ok()) value = as_string;
  if (!value.ok())
    return absl::InvalidArgumentError(
        absl::StrCat("--set ", name, ": the value is not UTF-8 text"));
  setting.value = *std::move(value);
  setting.raw = std::string(text);
  return setting;
}

}  // namespace sdp::config

// Checks of one value, and messages about keys that are none: the part of rules.h that is not data.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/types/span.h"
#include "common/config/config.h"
#include "common/config/rules.h"
#include "common/config/value.h"
#include "google/protobuf/descriptor.h"

namespace sdp::config {
namespace {

using google::protobuf::FieldDescriptor;

// Sections and keys (with a dot) of the design whose feature does not exist yet.
constexpr absl::string_view kNotBuilt[] = {"shard"};

// Names that other programs give to our keys: too many edits away to be found as typing errors.
constexpr std::pair<absl::string_view, absl::string_view> kElsewhere[] = {
    {"learning_rate", "train.lr"},         {"batch_size", "train.global_batch"},
    {"batch", "train.global_batch"},       {"max_steps", "train.steps"},
    {"iterations", "train.steps"},         {"sequence_length", "data.seq_len"},
    {"block_size", "data.seq_len"},        {"hidden_size", "model.dim"},
    {"num_hidden_layers", "model.layers"}, {"num_attention_heads", "model.heads"},
    {"grad_clip", "train.clip_norm"},      {"max_grad_norm", "train.clip_norm"},
};

std::string Choices(const Rule& rule) {
  return absl::StrJoin(rule.choices, " or ", [](std::string* out, absl::string_view choice) {
    absl::StrAppend(out, Quoted(choice));
  });
}

std::string NumberText(double number) {
  return std::string(absl::StripSuffix(TomlText({number}), ".0"));
}

std::string NumbersIn(const Range& range) {
  const bool bounded_above = range.high < std::numeric_limits<double>::max();
  if (!bounded_above) return absl::StrCat(range.low_open ? "> " : ">= ", NumberText(range.low));
  return absl::StrCat("in ", range.low_open ? "(" : "[", NumberText(range.low), ", ",
                      NumberText(range.high), range.high_open ? ")" : "]");
}

bool InRange(const Range& range, double number) {
  // Written so that NaN fails.
  const bool above = range.low_open ? number > range.low : number >= range.low;
  const bool below = range.high_open ? number < range.high : number <= range.high;
  return above && below && std::isfinite(number);
}

bool IsAllowedText(const Rule& rule, const std::string& text) {
  switch (rule.text) {
    case Text::kChoice:
      return absl::c_linear_search(rule.choices, text);
    case Text::kNotEmpty:
      return !text.empty();
    case Text::kAny:
      return true;
    case Text::kByteSize: {
      if (text.empty()) return true;
      const auto bytes = ParseBytes(text);
      return bytes.ok() && *bytes > 0;
    }
  }
  return false;
}

bool IsAllowedItem(const Rule& rule, FieldDescriptor::CppType type, const Value& value) {
  switch (type) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return std::holds_alternative<bool>(value.is);
    case FieldDescriptor::CPPTYPE_INT64: {
      const auto* const number = std::get_if<int64_t>(&value.is);
      return number != nullptr && InRange(rule.range, static_cast<double>(*number));
    }
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      if (const auto* const whole = std::get_if<int64_t>(&value.is)) {
        return InRange(rule.range, static_cast<double>(*whole));
      }
      const auto* const number = std::get_if<double>(&value.is);
      return number != nullptr && InRange(rule.range, *number);
    }
    case FieldDescriptor::CPPTYPE_STRING: {
      const auto* const text = std::get_if<std::string>(&value.is);
      return text != nullptr && IsAllowedText(rule, *text);
    }
    default:
      return false;
  }
}

bool IsAllowed(const Rule& rule, const FieldDescriptor& field, const Value& value);

// One table of a list of them.
bool IsAllowedEntry(const FieldDescriptor& list, const Value& value) {
  const auto* const table = std::get_if<Table>(&value.is);
  return table != nullptr && absl::c_all_of(*table, [&list](const Entry& entry) {
           const FieldDescriptor* const field = list.message_type()->FindFieldByName(entry.name);
           return field != nullptr && IsAllowed(*FindPhaseRule(entry.name), *field, entry.value);
         });
}

bool IsAllowed(const Rule& rule, const FieldDescriptor& field, const Value& value) {
  if (field.is_map()) {
    const auto* const table = std::get_if<Table>(&value.is);
    const auto type = field.message_type()->map_value()->cpp_type();
    return table != nullptr && static_cast<int64_t>(table->size()) >= rule.min_items &&
           absl::c_all_of(
               *table, [&](const Entry& entry) { return IsAllowedItem(rule, type, entry.value); });
  }
  if (!field.is_repeated()) return IsAllowedItem(rule, field.cpp_type(), value);
  const auto* const list = std::get_if<List>(&value.is);
  if (list == nullptr) return false;
  const auto size = static_cast<int64_t>(list->size());
  return size >= rule.min_items && size <= rule.max_items &&
         absl::c_all_of(*list, [&](const Value& item) {
           return field.message_type() != nullptr ? IsAllowedEntry(field, item)
                                                  : IsAllowedItem(rule, field.cpp_type(), item);
         });
}

std::string AllowedText(const Rule& rule) {
  switch (rule.text) {
    case Text::kChoice:
      return Choices(rule);
    case Text::kNotEmpty:
      return "a string that is not empty";
    case Text::kAny:
      return "a string";
    case Text::kByteSize:
      return "a size in bytes such as \"6GiB\" or \"512MiB\", or \"\"";
  }
  return "";
}

std::string AllowedList(const Rule& rule, const FieldDescriptor& field) {
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
    return absl::StrCat("a list of ", rule.min_items > 0 ? "at least one file" : "files",
                        ", such as [\"a.txt\"]");
  }
  if (field.message_type() != nullptr) {
    return "a list of tables such as { from = 100, coverage = 1.0 }; beside from there may be "
           "coverage or depth, and coverage_by, each as in [sdp]";
  }
  const std::string count =
      rule.min_items == rule.max_items ? absl::StrCat(rule.max_items, " ") : "";
  const bool whole = field.cpp_type() == FieldDescriptor::CPPTYPE_INT64;
  return absl::StrCat("a list of ", count, whole ? "integers " : "numbers ", NumbersIn(rule.range));
}

// What a user wrote, at a length and in characters that fit into a message.
constexpr size_t kLongestShown = 200;

std::string Clipped(std::string text) {
  if (text.size() <= kLongestShown) return text;
  text.resize(kLongestShown);
  return text + "...";
}

std::string Escaped(absl::string_view name) { return Clipped(absl::Utf8SafeCEscape(name)); }

// Edits of one character, and swaps of two neighbours, that turn one text into the other.
int EditDistance(absl::string_view a, absl::string_view b) {
  a = a.substr(0, kLongestShown);  // The user's; a file may hold a key of any length.
  std::vector<std::vector<int>> cost(a.size() + 1, std::vector<int>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) cost[i][0] = static_cast<int>(i);
  for (size_t j = 0; j <= b.size(); ++j) cost[0][j] = static_cast<int>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      const int change = cost[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      cost[i][j] = std::min({change, cost[i - 1][j] + 1, cost[i][j - 1] + 1});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
    }
  }
  return cost[a.size()][b.size()];
}

std::pair<absl::string_view, absl::string_view> SplitKey(absl::string_view key) {
  return absl::StrSplit(key, absl::MaxSplits('.', 1));
}

// The rule with the least distance; of equals the first.
template <typename Distance>
absl::string_view Nearest(const Distance& distance) {
  const absl::Span<const Rule> rules = Rules();
  return absl::c_min_element(
             rules, [&](const Rule& a, const Rule& b) { return distance(a) < distance(b); })
      ->key;
}

absl::string_view NearestSection(absl::string_view section) {
  return SplitKey(Nearest([section](const Rule& rule) {
           return EditDistance(section, SplitKey(rule.key).first);
         }))
      .first;
}

absl::string_view NearestKey(absl::string_view section, absl::string_view key) {
  for (const auto& [name, ours] : kElsewhere) {
    if (key == name) return ours;
  }
  return Nearest([=](const Rule& rule) {
    const auto [its_section, its_key] = SplitKey(rule.key);
    const int edits = EditDistance(key, its_key);
    if (its_section == section) return edits;
    // A key in the wrong section is likely if it is written right, else a coincidence.
    return edits + (edits <= 1 || !IsSection(section) ? 2 : 1000);
  });
}

std::string KeysOf(absl::string_view section) {
  std::vector<absl::string_view> keys;
  for (const Rule& rule : Rules()) {
    const auto [its_section, key] = SplitKey(rule.key);
    if (its_section == section) keys.push_back(key);
  }
  return absl::StrJoin(keys, ", ");
}

}  // namespace

std::string Allowed(const Rule& rule) {
  const FieldDescriptor& field = *FieldOf(rule.key);
  if (field.is_map()) {
    return absl::StrCat("a table of numbers ", NumbersIn(rule.range), ", such as { mlp = 0.5 }");
  }
  if (field.is_repeated()) return AllowedList(rule, field);
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return "true or false";
    case FieldDescriptor::CPPTYPE_INT64:
      return absl::StrCat("an integer ", NumbersIn(rule.range));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return absl::StrCat("a number ", NumbersIn(rule.range),
                          rule.zero.empty() ? "" : absl::StrCat(", or \"", rule.zero, "\""));
    default:
      return AllowedText(rule);
  }
}

std::string CheckValue(const Rule& rule, const Value& value) {
  const FieldDescriptor& field = *FieldOf(rule.key);
  if (IsAllowed(rule, field, value)) return "";
  const auto* const text = std::get_if<std::string>(&value.is);
  if (text != nullptr && !rule.zero.empty() && *text == rule.zero) return "";
  if (text != nullptr && absl::c_linear_search(rule.not_built, *text)) {
    return absl::StrCat(rule.key, " = ", TomlText(value),
                        " is not built yet; allowed now: ", Allowed(rule));
  }
  return absl::StrCat(rule.key, " = ", Clipped(TomlText(value)), " is not allowed; it must be ",
                      Allowed(rule));
}

bool IsSection(absl::string_view name) {
  return absl::c_any_of(Rules(),
                        [name](const Rule& rule) { return SplitKey(rule.key).first == name; });
}

std::string ExplainUnknownSection(absl::string_view name) {
  const std::string shown = absl::StrCat("[", Escaped(name), "]");
  if (absl::c_linear_search(kNotBuilt, name)) {
    return absl::StrCat("section ", shown, " is not built yet");
  }
  return absl::StrCat("unknown section ", shown, "; the nearest valid one is [",
                      NearestSection(name), "]");
}

std::string ExplainUnknownKey(absl::string_view section, absl::string_view key) {
  if (section.empty() && IsSection(key)) {
    return absl::StrCat(key, " is a section, not a key: write [", key,
                        "] and its keys below: ", KeysOf(key));
  }
  if (section.empty()) {
    return absl::StrCat(Escaped(key), " is outside all sections; the nearest valid key is ",
                        NearestKey(section, key));
  }
  const std::string shown = Escaped(absl::StrCat(section, ".", key));
  if (absl::c_linear_search(kNotBuilt, section) || absl::c_linear_search(kNotBuilt, shown)) {
    return absl::StrCat(shown, " is not built yet");
  }
  if (!IsSection(section)) {
    return absl::StrCat(ExplainUnknownSection(section), " (of ", shown, ")");
  }
  return absl::StrCat("unknown key ", shown, "; the nearest valid key is ",
                      NearestKey(section, key), "; keys of [", section, "]: ", KeysOf(section));
}

}  // namespace sdp::config

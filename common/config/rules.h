// The rule table: every key a config may have, its default, what it allows, whether the config hash
// covers it, and a line of help; and the keys and values that are named in the design but not built
// yet. A field's type comes from config.proto; a test holds the two together. Rules that concern
// several keys are in cross_rules.h. Threads: constant data.   Errors: messages are returned as
// text, "" for none, and say what is allowed.
#pragma once

#include <limits>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/config/value.h"
#include "google/protobuf/descriptor.h"

namespace sdp::config {

// Allowed numbers. NaN and infinities are in no range.
struct Range {
  double low = -std::numeric_limits<double>::max();
  double high = std::numeric_limits<double>::max();
  bool low_open = false;
  bool high_open = false;
};

enum class Text {
  kChoice,    // One of `choices`.
  kNotEmpty,  // Also each string of a list.
  kAny,
  kByteSize,  // "" or a positive ParseBytes.
};

// Whether workers with different values may meet, and a run go on from another's checkpoint.
enum class Hashed { kYes, kNo };

struct Rule {
  absl::string_view key;       // "train.lr"
  absl::string_view fallback;  // The default, as TOML; "": none, or one that depends on other keys.
  Hashed hashed;
  absl::string_view help;
  Range range = {};  // Numbers, alone, in a list or in a table.
  Text text = Text::kChoice;
  std::vector<absl::string_view> choices = {};
  std::vector<absl::string_view> not_built = {};  // Strings that will be allowed one day.
  absl::string_view zero = {};  // Numbers: a word for 0, which the range leaves out.
  int min_items = 0;  // Lists and tables. > 0: one without items is the same as none.
  int max_items = std::numeric_limits<int>::max();
  std::vector<absl::string_view> archs = {};  // The values of model.arch that have it; {}: all.

  bool IsOf(absl::string_view arch) const;
};

// In the order of design and printing: keys of a section are together.
absl::Span<const Rule> Rules();

// Null - there is no such key.
const Rule* FindRule(absl::string_view key);

// The rule of a key of the tables in sdp.phases: `from`, or the rule of [sdp] by that name.
const Rule* FindPhaseRule(absl::string_view name);

// The type of a rule's key. Null - config.proto lacks it, which a test excludes.
const google::protobuf::FieldDescriptor* FieldOf(absl::string_view key);

// What is wrong with `value` for this key.
std::string CheckValue(const Rule& rule, const Value& value);

// "a number in (0, 1]".
std::string Allowed(const Rule& rule);

bool IsSection(absl::string_view name);

// Why section.key is no key: not built yet, or unknown, with the nearest valid one. A key outside
// all sections has `section` "".
std::string ExplainUnknownKey(absl::string_view section, absl::string_view key);
std::string ExplainUnknownSection(absl::string_view name);

}  // namespace sdp::config

// Turns TOML text and `--set` arguments into settings: which key, which value, from where. Knows
// nothing of which keys exist. The only code that sees the TOML library. Threads: pure functions.
// Errors: InvalidArgument with `name:line` for text that is not TOML.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/config/value.h"

namespace sdp::config {

struct Setting {
  std::string section;  // "" for a key before the first section.
  std::string key;
  Value value;
  std::string origin;  // "run.toml:12" or "--set"
  std::string
      raw;  // --set: the text after '='. A string key takes it as it is: run.dir=7 means "7".
  // A section without keys, as `section` "" and its name in `key`: valid if the name is.
  bool is_empty_section = false;
};

// All settings of a file in the order of its lines. `name` is the file's, for origins and errors.
absl::StatusOr<std::vector<Setting>> ReadToml(absl::string_view text, absl::string_view name);

// One override, "section.key=value". The value is TOML; what is not TOML is a string, so
// `run.dir=runs/b` needs no quotes.
absl::StatusOr<Setting> ReadOverride(absl::string_view argument);

// `text` as a TOML value. InvalidArgument - it is not exactly one value.
absl::StatusOr<Value> ReadValue(absl::string_view text);

}  // namespace sdp::config

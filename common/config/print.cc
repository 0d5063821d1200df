// The texts made of a RunConfig: printed, described, hashed.
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "common/base/hash.h"
#include "common/config/config.h"
#include "common/config/fields.h"
#include "common/config/rules.h"
#include "common/config/toml_reader.h"
#include "common/config/value.h"
#include "proto/config.pb.h"

namespace sdp {
namespace {

using config::Hashed;
using config::Rule;
using config::Value;

// Calls line(rule, key without section) for every rule; `out` gets a header where a section begins.
template <typename Line>
void ForEachKey(std::string* out, const Line& line) {
  absl::string_view last;
  for (const Rule& rule : config::Rules()) {
    const size_t dot = rule.key.find('.');
    const absl::string_view section = rule.key.substr(0, dot);
    if (section != last) absl::StrAppend(out, out->empty() ? "" : "\n", "[", section, "]\n");
    last = section;
    line(rule, rule.key.substr(dot + 1));
  }
}

}  // namespace

std::string PrintConfig(const LoadedConfig& loaded) {
  std::string out;
  ForEachKey(&out, [&](const Rule& rule, absl::string_view name) {
    const auto origin = loaded.origins.find(std::string(rule.key));
    const absl::optional<Value> value = config::GetField(loaded.config, rule.key);
    if (origin == loaded.origins.end() || !value.has_value()) return;
    // Beside a preset the architecture is known and giving it is an error, so it is shown as a
    // comment.
    const bool implied = rule.key == "model.arch" && !loaded.config.model().preset().empty();
    const std::string assignment =
        absl::StrCat(implied ? "# " : "", name, " = ", config::TomlText(*value));
    // Escaped: a file name may hold a line break, which would end the comment.
    absl::StrAppendFormat(&out, "%-32s  # %s\n", assignment, absl::Utf8SafeCEscape(origin->second));
  });
  return out;
}

absl::Status WriteResolved(const LoadedConfig& loaded, const std::string& path) {
  // Through a second name, so that a reader or a crash never sees half a file.
  const std::string partial = absl::StrCat(path, ".partial");
  {
    std::ofstream file(partial, std::ios::binary | std::ios::trunc);
    file << PrintConfig(loaded);
    file.close();
    if (!file) return absl::UnavailableError(absl::StrCat("cannot write ", partial));
  }
  std::error_code error;
  std::filesystem::rename(partial, path, error);
  if (error)
    return absl::UnavailableError(absl::StrCat("cannot write ", path, ": ", error.message()));
  return absl::OkStatus();
}

std::string DescribeKeys() {
  std::string out;
  ForEachKey(&out, [&](const Rule& rule, absl::string_view name) {
    const auto fallback = config::ReadValue(rule.fallback);
    absl::StrAppendFormat(&out, "%-14s  %-12s  %s (%s)\n", name,
                          fallback.ok() ? config::TomlText(*fallback) : "-", rule.help,
                          config::Allowed(rule));
  });
  return out;
}

std::string ConfigHash(const RunConfig& config) {
  std::string text = absl::StrCat("wire=", kWireFormatVersion, "\n");
  for (const Rule& rule : config::Rules()) {
    const absl::optional<Value> value = config::GetField(config, rule.key);
    if (rule.hashed != Hashed::kYes || !value.has_value()) continue;
    absl::StrAppend(&text, rule.key, "=", config::TomlText(*value), "\n");
  }
  return HashText(Hash64(text));
}

}  // namespace sdp

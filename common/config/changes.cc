#include "common/config/changes.h"

#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "common/config/fields.h"
#include "common/config/rules.h"
#include "common/config/value.h"

namespace sdp {
namespace {

std::string Text(const RunConfig& config, const std::string& key) {
  const absl::optional<config::Value> value = config::GetField(config, key);
  return value.has_value() ? config::TomlText(*value) : "(none)";
}

}  // namespace

std::vector<ConfigChange> ConfigChanges(const RunConfig& before, const RunConfig& after) {
  std::vector<ConfigChange> changes;
  for (const config::Rule& rule : config::Rules()) {
    const std::string key(rule.key);
    std::string was = Text(before, key), is = Text(after, key);
    if (was == is) continue;
    changes.push_back({key, std::move(was), std::move(is), rule.hashed == config::Hashed::kYes});
  }
  return changes;
}

std::string ChangeText(const ConfigChange& change) {
  return absl::StrCat(change.key, ": ", change.before, " -> ", change.after);
}

}  // namespace sdp

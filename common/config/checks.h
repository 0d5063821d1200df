#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/config/config.h"
#include "common/config/cross_rules.h"

namespace sdp::config {

// What rules between several keys find wrong, with each key's value and where that came from.
class Checks {
 public:
  explicit Checks(const LoadedConfig& loaded) : loaded_(loaded) {}

  // `keys` are those whose values `problem` is about.
  void Fail(const std::vector<std::string>& keys, const std::string& problem) {
    errors_.push_back(absl::StrCat(absl::StrJoin(keys, ", ",
                                                 [this](std::string* out, const std::string& key) {
                                                   absl::StrAppend(out, Shown(loaded_, key));
                                                 }),
                                   ": ", problem));
  }

  std::vector<std::string> TakeErrors() { return std::move(errors_); }

 private:
  const LoadedConfig& loaded_;
  std::vector<std::string> errors_;
};

}  // namespace sdp::config

#pragma once

#include <string>
#include <vector>

#include "proto/config.pb.h"

namespace sdp {

// A key whose value differs between two configurations of a run.
struct ConfigChange {
  std::string key;
  std::string before, after;  // as TOML; "(none)"
  bool hashed = false;        // in the config hash: it changes what is trained
};

// In the order of the rule table.
std::vector<ConfigChange> ConfigChanges(const RunConfig& before, const RunConfig& after);

// "train.lr: 0.001 -> 0.002"
std::string ChangeText(const ConfigChange& change);

}  // namespace sdp

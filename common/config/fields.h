// Reads and writes the fields of a RunConfig by key ("train.lr"), through protobuf reflection, so
// no key is named twice. Threads: pure functions.   Errors: keys must be in the rule table and
// values checked by it; then nothing fails.
#pragma once

#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "common/config/value.h"
#include "proto/config.pb.h"

namespace sdp::config {

// Replaces the field's value; a list or table as a whole. Integers are taken for doubles.
void SetField(RunConfig* config, absl::string_view key, const Value& value);

// nullopt - an optional field that is absent, or a list or table without items where one needs
// some.
absl::optional<Value> GetField(const RunConfig& config, absl::string_view key);

}  // namespace sdp::config

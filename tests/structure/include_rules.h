#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

// Who may include whom: the table in include_rules.cc, and a checker for single #include lines.
namespace sdp {

// The path that an #include line names, or nullopt for any other line.
std::optional<std::string> IncludedPath(absl::string_view line);

// Why `file` may not include `included` (both from the repository's root), in one sentence; nullopt
// if it may. Files under tests/ may include everything. A product file of a folder that is not in
// the table may include nothing.
std::optional<std::string> WhyForbidden(absl::string_view file, absl::string_view included);

// The folders of the table, so that a test can see that each exists.
std::vector<std::string> FoldersWithRules();

}  // namespace sdp

#pragma once

#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "server/coordinator/service/curve_history.h"

namespace sdp {

// "12.340": what a page has of the curves, as it is told to ask with.
std::string CursorText(const CurveHistory::Cursor& cursor);
// Nothing: it is no such text.
std::optional<CurveHistory::Cursor> CursorFrom(absl::string_view text);

}  // namespace sdp

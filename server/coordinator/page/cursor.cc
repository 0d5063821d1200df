#include "server/coordinator/page/cursor.h"

#include <cstdint>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace sdp {

std::string CursorText(const CurveHistory::Cursor& cursor) {
  return absl::StrCat(cursor.rewritten, ".", cursor.points);
}

std::optional<CurveHistory::Cursor> CursorFrom(absl::string_view text) {
  const std::vector<absl::string_view> parts = absl::StrSplit(text, '.');
  CurveHistory::Cursor cursor;
  uint64_t points = 0;
  if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &cursor.rewritten) ||
      !absl::SimpleAtoi(parts[1], &points) || cursor.rewritten < 0)
    return std::nullopt;
  cursor.points = points;
  return cursor;
}

}  // namespace sdp

#include "deploy/command/text_table.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"

namespace sdp {

std::string TableText(const std::vector<Row>& rows) {
  std::vector<size_t> widths;
  for (const Row& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const Row& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      absl::StrAppendFormat(&line, "%-*s  ", static_cast<int>(widths[i]), row[i]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    absl::StrAppend(&text, line, "\n");
  }
  return text;
}

std::string MemoryText(int64_t bytes) {
  if (bytes <= 0) return "-";
  if (bytes >= int64_t{1} << 30) return absl::StrFormat("%.2f GiB", std::ldexp(bytes, -30));
  return absl::StrFormat("%.1f MiB", std::ldexp(bytes, -20));
}

std::string OrDash(const std::string& text) { return text.empty() ? "-" : text; }
std::string StepText(int64_t step) { return step < 0 ? "-" : absl::StrCat(step); }

std::string SecondsText(double seconds) {
  if (seconds < 10) return absl::StrFormat("%.1fs", seconds);
  return absl::FormatDuration(absl::Seconds(std::round(seconds)));
}

}  // namespace sdp

#include <cmath>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/config/config.h"
#include "common/config/value.h"

namespace sdp {
namespace {

struct Unit {
  absl::string_view name;
  double bytes;
};

constexpr Unit kUnits[] = {
    {"B", 1},    {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40},
    {"KB", 1e3}, {"kB", 1e3},     {"MB", 1e6},     {"GB", 1e9},     {"TB", 1e12},
};

}  // namespace

absl::StatusOr<int64_t> ParseBytes(absl::string_view text) {
  const auto invalid = [text] {
    return absl::InvalidArgumentError(absl::StrCat(
        config::Quoted(text), " is not a size in bytes such as \"6GiB\" or \"512MiB\""));
  };
  // Digits and a point only: SimpleAtod alone would take "1e3", "nan" and "0x10" too.
  const auto end = text.find_first_not_of("0123456789.");
  double number = 0;
  if (end == absl::string_view::npos || !absl::SimpleAtod(text.substr(0, end), &number))
    return invalid();
  const absl::string_view name = absl::StripLeadingAsciiWhitespace(text.substr(end));
  for (const Unit& unit : kUnits) {
    if (name != unit.name) continue;
    const double bytes = std::floor(number * unit.bytes);
    if (!(bytes < 0x1p63)) return invalid();
    return static_cast<int64_t>(bytes);
  }
  return invalid();
}

}  // namespace sdp

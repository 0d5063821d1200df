#include "deploy/command/bandwidth.h"

#include <string>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace sdp {
namespace {

struct Unit {
  absl::string_view name;
  double bytes;
};

constexpr Unit kUnits[] = {
    {"bit", 1.0 / 8}, {"kbit", 1e3 / 8}, {"Mbit", 1e6 / 8}, {"Gbit", 1e9 / 8}, {"Tbit", 1e12 / 8},
    {"bps", 1.0 / 8}, {"kbps", 1e3 / 8}, {"Mbps", 1e6 / 8}, {"Gbps", 1e9 / 8}, {"Tbps", 1e12 / 8},
    {"B", 1},         {"kB", 1e3},       {"MB", 1e6},       {"GB", 1e9},       {"TB", 1e12},
    {"KiB", 0x1p10},  {"MiB", 0x1p20},   {"GiB", 0x1p30},
};

}  // namespace

absl::StatusOr<double> ParseBandwidth(absl::string_view text) {
  // Digits and a point only: SimpleAtod alone would take "1e3", "nan" and "0x10" too.
  const auto end = text.find_first_not_of("0123456789.");
  double number = 0;
  if (end != absl::string_view::npos && absl::SimpleAtod(text.substr(0, end), &number) &&
      number > 0) {
    const absl::string_view name =
        absl::StripSuffix(absl::StripLeadingAsciiWhitespace(text.substr(end)), "/s");
    for (const Unit& unit : kUnits) {
      if (name == unit.name) return number * unit.bytes;
    }
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "--bandwidth ", text,
      ": must be a number and a unit of a link's speed, such as 1Gbit, 100Mbps or 125MB/s"));
}

}  // namespace sdp

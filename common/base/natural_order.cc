#include "common/base/natural_order.h"

#include "absl/strings/ascii.h"

namespace sdp {
namespace {

// The length of the run of digits at the start of `s`.
size_t Digits(absl::string_view s) {
  size_t n = 0;
  while (n < s.size() && absl::ascii_isdigit(s[n])) ++n;
  return n;
}

absl::string_view WithoutLeadingZeros(absl::string_view digits) {
  while (digits.size() > 1 && digits.front() == '0') digits.remove_prefix(1);
  return digits;
}

}  // namespace

bool NaturalLess(absl::string_view a, absl::string_view b) {
  const absl::string_view whole_a = a, whole_b = b;
  while (!a.empty() && !b.empty()) {
    const size_t da = Digits(a), db = Digits(b);
    if (da > 0 && db > 0) {
      const absl::string_view na = WithoutLeadingZeros(a.substr(0, da));
      const absl::string_view nb = WithoutLeadingZeros(b.substr(0, db));
      if (na.size() != nb.size()) return na.size() < nb.size();
      if (na != nb) return na < nb;
      a.remove_prefix(da);
      b.remove_prefix(db);
    } else {
      if (a.front() != b.front()) return a.front() < b.front();
      a.remove_prefix(1);
      b.remove_prefix(1);
    }
  }
  if (a.empty() != b.empty()) return a.empty();
  return whole_a < whole_b;
}

}  // namespace sdp

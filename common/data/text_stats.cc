#include "common/data/text_stats.h"

#include <cmath>
#include <cstdint>
#include <vector>

namespace sdp {
namespace {

size_t Byte(char c) { return static_cast<unsigned char>(c); }

// The sum of -count ln(count / total) over the 256 counts from `counts` on.
double Surprise(const int64_t* counts) {
  int64_t total = 0;
  for (int i = 0; i < 256; ++i) total += counts[i];
  double sum = 0;
  for (int i = 0; i < 256; ++i) {
    if (counts[i] == 0) continue;
    const double count = static_cast<double>(counts[i]);
    sum += count * std::log(static_cast<double>(total) / count);
  }
  return sum;
}

}  // namespace

double UnigramEntropy(absl::string_view text) {
  if (text.empty()) return 0;
  std::vector<int64_t> counts(256);
  for (const char c : text) ++counts[Byte(c)];
  return Surprise(counts.data()) / static_cast<double>(text.size());
}

double BigramEntropy(absl::string_view text) {
  if (text.size() < 2) return 0;
  std::vector<int64_t> counts(256 * 256);  // [byte, next byte]
  for (size_t i = 0; i + 1 < text.size(); ++i) ++counts[Byte(text[i]) * 256 + Byte(text[i + 1])];
  double sum = 0;
  for (size_t first = 0; first < 256; ++first) sum += Surprise(&counts[first * 256]);
  return sum / static_cast<double>(text.size() - 1);
}

}  // namespace sdp

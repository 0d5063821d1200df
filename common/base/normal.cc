#include "common/base/normal.h"

#include <bit>
#include <cmath>

#include "common/base/random.h"

namespace sdp {
namespace {

constexpr double kTwoPi = 6.283185307179586476925;
constexpr double kSqrt2 = 1.414213562373095048802;
// ln 2 in two parts: the first has 21 zero bits at its end, so that its product with an exponent is
// exact.
constexpr double kLn2High = 0x1.62e42feep-1;
constexpr double kLn2Low = 0x1.a39ef35793c76p-33;

}  // namespace

double Log(double x) {
  // x = 2^exponent m with m in [1/sqrt 2, sqrt 2).
  const uint64_t bits = std::bit_cast<uint64_t>(x);
  int exponent = static_cast<int>(bits >> 52) - 1023;
  double m = std::bit_cast<double>((bits & 0xFFFFFFFFFFFFF) | (uint64_t{1023} << 52));
  if (m >= kSqrt2) {
    m *= 0.5;
    ++exponent;
  }
  // ln m = 2 artanh(s) = 2 s (1 + s^2 / 3 + s^4 / 5 + ...), |s| < 0.172: the first term left out is
  // 2e-18 of the sum.
  const double s = (m - 1) / (m + 1);
  const double z = s * s;
  double series = 0;
  for (int k = 10; k >= 1; --k) series = (series + 1.0 / (2 * k + 1)) * z;
  const double log_m = 2 * s + 2 * s * series;
  return exponent * kLn2High + (exponent * kLn2Low + log_m);
}

CosSin CosSinOfTurns(double turns) {
  // Nearest quarter turn, and the rest in [-1/8, 1/8]; both exact.
  const int quarter = static_cast<int>(turns * 4 + 0.5);
  const double angle = kTwoPi * (turns - 0.25 * quarter);
  const double z = angle * angle;
  // Taylor: cos to z^8, sin to angle z^8. The first terms left out are below 3e-18 of the sums.
  double cos_tail = 0, sin_tail = 0;
  for (int k = 8; k >= 1; --k) {
    cos_tail = (1 + cos_tail) * (-z / ((2 * k - 1) * (2 * k)));
    sin_tail = (1 + sin_tail) * (-z / ((2 * k) * (2 * k + 1)));
  }
  const double c = 1 + cos_tail;
  const double s = angle + angle * sin_tail;
  switch (quarter & 3) {
    case 0:
      return {c, s};
    case 1:
      return {-s, c};
    case 2:
      return {-c, -s};
    default:
      return {s, -c};
  }
}

NormalPair StandardNormals(uint64_t seed, uint64_t stream, uint64_t index) {
  const auto words = Philox({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
                             static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)},
                            {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  // 53 bits each; u in (0, 1] so that its logarithm exists, v in [0, 1).
  const uint64_t a = (uint64_t{words[0]} << 32) | words[1];
  const uint64_t b = (uint64_t{words[2]} << 32) | words[3];
  const double u = static_cast<double>((a >> 11) + 1) * 0x1p-53;
  const double v = static_cast<double>(b >> 11) * 0x1p-53;
  const double radius = std::sqrt(-2 * Log(u));
  const CosSin direction = CosSinOfTurns(v);
  return {radius * direction.cos, radius * direction.sin};
}

}  // namespace sdp

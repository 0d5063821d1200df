#include "common/base/normal.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstddef>

#include "common/base/random.h"

namespace sdp {
namespace {

constexpr double kTwoPi = 6.283185307179586476925;
constexpr double kSqrt2 = 1.414213562373095048802;
// ln 2 in two parts: the first has 21 zero bits at its end, so that its product with an exponent is
// exact.
constexpr double kLn2High = 0x1.62e42feep-1;
constexpr double kLn2Low = 0x1.a39ef35793c76p-33;

// Coefficients of the series below, computed by the compiler: dividing at run time takes most of
// the time otherwise.
template <size_t kTerms>
struct Series {
  std::array<double, kTerms> terms;
  // terms[0] + z terms[1] + z^2 terms[2] + ...
  double operator()(double z) const {
    double sum = terms[kTerms - 1];
    for (size_t k = kTerms - 1; k-- > 0;) sum = sum * z + terms[k];
    return sum;
  }
};

// 1/3, 1/5, 1/7, ...
constexpr Series<10> kArtanh = [] {
  Series<10> series{};
  for (int k = 0; k < 10; ++k) series.terms[static_cast<size_t>(k)] = 1.0 / (2 * k + 3);
  return series;
}();

// -1/n!, 1/(n+2)!, -1/(n+4)!, ... Factorials up to 18! are exact, so each is rounded once.
constexpr Series<8> Alternating(int n) {
  Series<8> series{};
  double factorial = 1, sign = -1;
  for (int i = 2; i < n; ++i) factorial *= i;
  for (double& term : series.terms) {
    factorial *= n;
    term = sign / factorial;
    factorial *= n + 1;
    n += 2;
    sign = -sign;
  }
  return series;
}
constexpr Series<8> kCos = Alternating(2);
constexpr Series<8> kSin = Alternating(3);

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
  // ln m = 2 artanh(s) = 2 s (1 + s^2 / 3 + s^4 / 5 + ...), |s| < 0.172: the first term left out
  // is 1e-18 of the sum.
  const double s = (m - 1) / (m + 1);
  const double z = s * s;
  const double log_m = 2 * s + 2 * s * (z * kArtanh(z));
  return exponent * kLn2High + (exponent * kLn2Low + log_m);
}

CosSin CosSinOfTurns(double turns) {
  // Nearest quarter turn, and the rest in [-1/8, 1/8]; both exact.
  const int quarter = static_cast<int>(turns * 4 + 0.5);
  const double angle = kTwoPi * (turns - 0.25 * quarter);
  const double z = angle * angle;
  // Taylor: cos to z^8, sin to angle z^8. The first terms left out are below 3e-18 of the sums.
  const double c = 1 + z * kCos(z);
  const double s = angle + angle * (z * kSin(z));
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

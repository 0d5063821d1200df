#include "common/base/normal.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "common/base/random.h"

namespace sdp {
namespace {

constexpr long double kPi = 3.141592653589793238462643383279503L;

// The series are cut at 3e-18; what remains are a few roundings of 1.1e-16 each. The reference is
// libm in 80 bits.
constexpr double kTolerance = 1e-15;

double RelativeError(double value, long double expected) {
  if (expected == 0) return std::abs(value);
  return static_cast<double>(std::abs((value - expected) / expected));
}

TEST(NormalTest, Log_AgreesWithLibm) {
  RandomStream random(1, 2);
  for (int i = 0; i < 200000; ++i) {
    const double u = static_cast<double>((random.Next() >> 11) + 1) * 0x1p-53;
    ASSERT_LT(RelativeError(Log(u), std::log(static_cast<long double>(u))), kTolerance) << u;
    const double wide = std::ldexp(u, static_cast<int>(random.Below(1000)) - 500);
    ASSERT_LT(RelativeError(Log(wide), std::log(static_cast<long double>(wide))), kTolerance)
        << wide;
  }
}

TEST(NormalTest, Log_AtTheEdges) {
  EXPECT_EQ(Log(1.0), 0.0);
  for (const double x : {0x1p-53, 0x1p-52, 0.5, std::sqrt(0.5), std::nextafter(std::sqrt(0.5), 0.0),
                         std::nextafter(1.0, 0.0), std::nextafter(1.0, 2.0), std::sqrt(2.0), 2.0}) {
    EXPECT_LT(RelativeError(Log(x), std::log(static_cast<long double>(x))), kTolerance) << x;
  }
}

TEST(NormalTest, CosSin_AgreeWithLibm) {
  RandomStream random(3, 4);
  for (int i = 0; i < 200000; ++i) {
    const double turns = static_cast<double>(random.Next() >> 11) * 0x1p-53;
    // The reference's own argument has an error near the zeros of its result, so the quarter is
    // taken off before it, exactly.
    const double offset = std::floor(turns * 4) / 4;
    const long double rest = 2 * kPi * static_cast<long double>(turns - offset);
    long double c = std::cos(rest), s = std::sin(rest);
    if (rest > kPi / 4) {
      const long double other = 2 * kPi * static_cast<long double>(0.25 - (turns - offset));
      c = std::sin(other);
      s = std::cos(other);
    }
    for (int quarter = static_cast<int>(offset * 4); quarter > 0; --quarter) {
      const long double old = c;
      c = -s;
      s = old;
    }
    const CosSin result = CosSinOfTurns(turns);
    ASSERT_LT(RelativeError(result.cos, c), kTolerance) << turns;
    ASSERT_LT(RelativeError(result.sin, s), kTolerance) << turns;
  }
}

TEST(NormalTest, CosSin_OfQuarters_AreExact) {
  EXPECT_EQ(CosSinOfTurns(0).cos, 1);
  EXPECT_EQ(CosSinOfTurns(0).sin, 0);
  EXPECT_EQ(CosSinOfTurns(0.25).cos, 0);
  EXPECT_EQ(CosSinOfTurns(0.25).sin, 1);
  EXPECT_EQ(CosSinOfTurns(0.5).cos, -1);
  EXPECT_EQ(CosSinOfTurns(0.75).sin, -1);
  EXPECT_NEAR(CosSinOfTurns(std::nextafter(1.0, 0.0)).cos, 1, kTolerance);
}

// Over n = 2e6 numbers the standard errors are 7.1e-4 (mean), 1e-3 (variance), 1.7e-3
// (skewness), 3.5e-3 (kurtosis): five of each. The numbers are fixed, so this cannot fail by chance
// later.
TEST(NormalTest, StandardNormals_HaveTheMomentsOfN01) {
  constexpr int kPairs = 1000000;
  double m1 = 0, m2 = 0, m3 = 0, m4 = 0, product = 0;
  int64_t beyond_two = 0;
  for (int i = 0; i < kPairs; ++i) {
    const NormalPair pair = StandardNormals(7, 8, static_cast<uint64_t>(i));
    product += pair.first * pair.second;
    for (const double x : {pair.first, pair.second}) {
      m1 += x;
      m2 += x * x;
      m3 += x * x * x;
      m4 += x * x * x * x;
      beyond_two += std::abs(x) > 2;
    }
  }
  constexpr double n = 2.0 * kPairs;
  EXPECT_NEAR(m1 / n, 0, 5 * 7.1e-4);
  EXPECT_NEAR(m2 / n, 1, 5 * 1e-3);
  EXPECT_NEAR(m3 / n, 0, 5 * 2.8e-3);
  EXPECT_NEAR(m4 / n, 3, 5 * 7e-3);
  EXPECT_NEAR(product / kPairs, 0, 5 * 1e-3);
  EXPECT_NEAR(static_cast<double>(beyond_two) / n, std::erfc(std::sqrt(2.0)), 5 * 1.5e-4);
}

TEST(NormalTest, StandardNormals_DependOnSeedStreamAndIndex) {
  const double base = StandardNormals(1, 2, 3).first;
  EXPECT_EQ(StandardNormals(1, 2, 3).first, base);
  EXPECT_NE(StandardNormals(2, 2, 3).first, base);
  EXPECT_NE(StandardNormals(1, 3, 3).first, base);
  EXPECT_NE(StandardNormals(1, 2, 4).first, base);
  EXPECT_NE(StandardNormals(1, 2, 3 + (uint64_t{1} << 32)).first, base);
}

}  // namespace
}  // namespace sdp

#include "worker/model/kernel_parts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "common/base/dtype.h"
#include "worker/model/copy_runs.h"
#include "worker/model/kernel_element_parts.h"

// The pieces of the GPU's kernels, put together by loops as a GPU would by threads, against the
// CPU's kernels: the same results for any number of threads, of which some have nothing to do.
// Tolerance: 2e-6 of the largest for sums of up to 300 f32 terms in another order; bf16 results may
// differ by one rounding, 2^-7 of the value.
namespace sdp::kernels {
namespace {

std::vector<float> Random(int64_t size, int seed, float scale = 1) {
  std::mt19937 generator(static_cast<uint32_t>(seed));
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(static_cast<size_t>(size));
  for (float& value : values) value = normal(generator);
  return values;
}

template <typename T>
std::vector<T> As(const std::vector<float>& values) {
  std::vector<T> result(values.size());
  for (size_t i = 0; i < values.size(); ++i) parts::Store(values[i], &result[i]);
  return result;
}

template <typename T>
void ExpectNear(const std::vector<T>& a, const std::vector<T>& b) {
  ASSERT_EQ(a.size(), b.size());
  float largest = 0;
  for (const T& value : b) largest = std::max(largest, std::abs(parts::Load(&value)));
  const float rounding = sizeof(T) == 2 ? 0x1p-7f : 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const float expected = parts::Load(&b[i]);
    ASSERT_NEAR(parts::Load(&a[i]), expected, 2e-6f * largest + rounding * std::abs(expected)) << i;
  }
}

// What a block's threads return, added up.
template <typename F>
float SumOverThreads(int64_t threads, const F& f) {
  float sum = 0;
  for (int64_t t = 0; t < threads; ++t) sum += f(parts::Thread{t, threads});
  return sum;
}

template <typename T>
class KernelPartsTest : public ::testing::Test {};
using Types = ::testing::Types<float, Bf16>;
TYPED_TEST_SUITE(KernelPartsTest, Types);

constexpr int64_t kThreads[] = {1, 3, 256};

TYPED_TEST(KernelPartsTest, LoadAndStore_AreTheWiresConversions) {
  for (const float value : Random(1000, 1, 100)) {
    Bf16 stored;
    parts::Store(value, &stored);
    uint16_t expected;
    ToBf16({&value, 1}, {&expected, 1});
    ASSERT_EQ(stored.bits, expected);
    float back;
    FromBf16({&expected, 1}, {&back, 1});
    ASSERT_EQ(parts::Load(&stored), back);
  }
  Bf16 nan;
  parts::Store(NAN, &nan);
  EXPECT_TRUE(std::isnan(parts::Load(&nan)));
}

TYPED_TEST(KernelPartsTest, RmsNorm_EqualsTheCpus) {
  using T = TypeParam;
  const int64_t rows = 5, width = 37;
  const auto x = As<T>(Random(rows * width, 1)), weight = As<T>(Random(width, 2));
  std::vector<T> y(x.size()), expected(x.size());
  std::vector<float> rstd(rows);
  RmsNorm(x.data(), weight.data(), 1e-5f, rows, width, expected.data(), rstd.data());
  for (const int64_t threads : kThreads) {
    for (int64_t row = 0; row < rows; ++row) {
      const T* in = x.data() + row * width;
      const float squares =
          SumOverThreads(threads, [&](parts::Thread t) { return parts::SquaresOf(in, width, t); });
      const float scale = parts::Rstd(squares, width, 1e-5f);
      EXPECT_NEAR(scale, rstd[static_cast<size_t>(row)], 1e-6f * scale);
      for (int64_t t = 0; t < threads; ++t) {
        parts::Normalize(in, weight.data(), scale, width, y.data() + row * width, {t, threads});
      }
    }
    ExpectNear(y, expected);
  }
}

TYPED_TEST(KernelPartsTest, RmsNormGradient_EqualsTheCpus) {
  using T = TypeParam;
  const int64_t rows = 2 * kRowsPerPart + 5, width = 37;
  const auto dy = As<T>(Random(rows * width, 1)), x = As<T>(Random(rows * width, 2)),
             weight = As<T>(Random(width, 3)), residual = As<T>(Random(rows * width, 4));
  std::vector<T> y(x.size()), dx(x.size()), expected(x.size());
  std::vector<float> rstd(rows), dweight(3 * width), expected_dweight(3 * width);
  RmsNorm(x.data(), weight.data(), 1e-5f, rows, width, y.data(), rstd.data());
  for (const T* around : {static_cast<const T*>(nullptr), residual.data()}) {
    RmsNormGradient(dy.data(), x.data(), weight.data(), rstd.data(), around, rows, width,
                    expected.data(), expected_dweight.data());
    for (const int64_t threads : kThreads) {
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t at = row * width;
        const float scale = rstd[static_cast<size_t>(row)];
        const float dot = SumOverThreads(threads, [&](parts::Thread t) {
          return parts::DotOf(dy.data() + at, x.data() + at, weight.data(), scale, width, t);
        });
        for (int64_t t = 0; t < threads; ++t) {
          parts::NormDx(dy.data() + at, x.data() + at, weight.data(), scale, dot,
                        around == nullptr ? nullptr : around + at, width, dx.data() + at,
                        {t, threads});
        }
      }
      ExpectNear(dx, expected);
    }
    for (int64_t i = 0; i < 3 * width; ++i) {
      parts::NormDweight(dy.data(), x.data(), rstd.data(), rows, width, dweight.data(), i);
    }
    ExpectNear(dweight, expected_dweight);
  }
}

TYPED_TEST(KernelPartsTest, Rotate_EqualsTheCpus) {
  using T = TypeParam;
  const RotaryShape shape{.stride = 5 * 6, .heads = 3, .head_dim = 6, .length = 4};
  const int64_t rows = 11, position = 2;
  const auto cosine = Random(4 * 3, 1), sine = Random(4 * 3, 2);
  auto x = As<T>(Random(rows * shape.stride, 3));
  auto expected = x;
  for (const float sign : {1.0f, -1.0f}) {
    Rotate(expected.data(), shape, cosine.data(), sine.data(), sign, rows, position);
    for (int64_t i = 0; i < rows * 3 * 3; ++i) {
      parts::RotatePair(x.data(), shape, cosine.data(), sine.data(), sign, position, i);
    }
    ExpectNear(x, expected);
  }
}

TYPED_TEST(KernelPartsTest, SwiGluAndItsGradient_EqualTheCpus) {
  using T = TypeParam;
  const int64_t rows = 7, width = 19;
  const auto gate_up = As<T>(Random(rows * 2 * width, 1, 4));
  std::vector<T> product(rows * width), expected(rows * width);
  SwiGlu(gate_up.data(), rows, width, expected.data());
  for (int64_t i = 0; i < rows * width; ++i)
    parts::SwiGluElement(gate_up.data(), width, product.data(), i);
  ExpectNear(product, expected);

  product = expected = As<T>(Random(rows * width, 2));
  std::vector<T> gradient(gate_up.size()), expected_gradient(gate_up.size());
  SwiGluGradient(gate_up.data(), rows, width, expected.data(), expected_gradient.data());
  for (int64_t i = 0; i < rows * width; ++i) {
    parts::SwiGluGradientElement(gate_up.data(), width, product.data(), gradient.data(), i);
  }
  ExpectNear(product, expected);
  ExpectNear(gradient, expected_gradient);
}

TYPED_TEST(KernelPartsTest, EmbeddingGradient_EqualsTheCpus) {
  using T = TypeParam;
  const int64_t rows = 4, width = 9;
  // Tokens 2 0 2 2 3 2: token 1 does not occur.
  const std::vector<int64_t> order = {1, 0, 2, 3, 5, 4}, begins = {0, 1, 1, 5, 6};
  const auto dy = As<T>(Random(6 * width, 1));
  std::vector<T> dweight(rows * width), expected(rows * width);
  EmbeddingGradient(dy.data(), order.data(), begins.data(), rows, width, expected.data());
  for (int64_t i = 0; i < rows * width; ++i) {
    parts::EmbeddingElement(dy.data(), order.data(), begins.data(), width, dweight.data(), i);
  }
  ExpectNear(dweight, expected);
  EXPECT_EQ(parts::Load(&dweight[width]), 0);
}

// One row as the kernel's threads compute it.
float SoftmaxRow(std::vector<float>& logits, int64_t target, int64_t threads) {
  const int64_t classes = static_cast<int64_t>(logits.size());
  float largest = -INFINITY;
  for (int64_t t = 0; t < threads; ++t) {
    const float part = parts::LargestOf(logits.data(), classes, {t, threads});
    largest = largest > part || largest != largest ? largest : part;
  }
  const float below = parts::Below(logits.data(), largest, target, classes);
  const float sum = SumOverThreads(threads, [&](parts::Thread t) {
    return parts::Exponentiate(logits.data(), largest, classes, t);
  });
  for (int64_t t = 0; t < threads; ++t) parts::Divide(logits.data(), sum, classes, {t, threads});
  float loss = 0;
  parts::EndRow(logits.data(), below, sum, target, classes, &loss);
  return loss;
}

TEST(SoftmaxPartsTest, LossAndGradient_EqualTheCpus) {
  for (const int64_t threads : kThreads) {
    auto logits = Random(300, 1, 5), expected = logits;
    const int64_t target = 170;
    float loss = 0;
    SoftmaxLoss(expected.data(), &target, 1, 300, &loss);
    EXPECT_NEAR(SoftmaxRow(logits, target, threads), loss, 2e-6f * loss);
    ExpectNear(logits, expected);
  }
}

TEST(SoftmaxPartsTest, NotANumberAndTargetOutOfRange_LossIsNan) {
  for (const int64_t threads : kThreads) {
    for (const size_t at : {0, 150, 299}) {
      auto logits = Random(300, 1);
      logits[at] = NAN;
      EXPECT_TRUE(std::isnan(SoftmaxRow(logits, 7, threads)));
    }
    for (const int64_t target : {-1, 300}) {
      auto logits = Random(300, 1);
      EXPECT_TRUE(std::isnan(SoftmaxRow(logits, target, threads)));
    }
  }
}

// ---- CopyRuns: exactly the rounded product, and nothing else is touched ----

template <typename From, typename To>
void ExpectCopiesRuns(const RunsShape& runs, float factor) {
  const auto end = [&](int64_t stride) { return (runs.count - 1) * stride + runs.size + 3; };
  const std::vector<From> from = As<From>(Random(end(runs.from_stride), 1));
  std::vector<To> expected = As<To>(Random(end(runs.to_stride), 2));
  std::vector<To> on_cpu = expected, by_elements = expected;
  for (int64_t run = 0; run < runs.count; ++run) {
    for (int64_t i = 0; i < runs.size; ++i) {
      const float value = parts::Load(&from[static_cast<size_t>(run * runs.from_stride + i)]);
      parts::Store(value * factor, &expected[static_cast<size_t>(run * runs.to_stride + i)]);
    }
  }
  CopyRuns(from.data(), runs, factor, on_cpu.data());
  for (int64_t i = runs.count * runs.size; i-- > 0;)
    parts::CopyElement(from.data(), runs, factor, by_elements.data(), i);
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_EQ(parts::Load(&on_cpu[i]), parts::Load(&expected[i])) << i;
    ASSERT_EQ(parts::Load(&by_elements[i]), parts::Load(&expected[i])) << i;
  }
}

TEST(CopyRunsTest, UnpacksAndPacks_WithFactorAndRounding) {
  const RunsShape unpack = {.size = 5, .count = 7, .from_stride = 5, .to_stride = 12};
  const RunsShape pack = {.size = 5, .count = 7, .from_stride = 12, .to_stride = 5};
  const RunsShape one = {.size = 33, .count = 1, .from_stride = 0, .to_stride = 0};
  for (const RunsShape& runs : {unpack, pack, one}) {
    for (const float factor : {1.0f, 0.3f}) {
      ExpectCopiesRuns<float, float>(runs, factor);
      ExpectCopiesRuns<Bf16, Bf16>(runs, factor);
      ExpectCopiesRuns<float, Bf16>(runs, factor);
    }
  }
}

}  // namespace
}  // namespace sdp::kernels

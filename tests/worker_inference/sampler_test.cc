#include "worker/inference/sampler.h"

#include <cmath>
#include <set>
#include <vector>

#include "gtest/gtest.h"

namespace sdp {
namespace {

const std::vector<float> kLogits = {0.5f, 2, -1, 2, 1};

TEST(SamplerTest, TemperatureZero_IsTheMostLikely_TheFirstOfEquals) {
  for (int64_t position = 0; position < 20; ++position) {
    EXPECT_EQ(SampleToken(kLogits, {.temperature = 0, .seed = 3}, position), 1);
    EXPECT_EQ(SampleToken(kLogits, {.temperature = 5, .top_k = 1, .seed = 3}, position), 1);
  }
}

TEST(SamplerTest, TopK_IsAmongThem) {
  std::set<int32_t> seen;
  for (int64_t position = 0; position < 500; ++position) {
    seen.insert(SampleToken(kLogits, {.temperature = 10, .top_k = 3}, position));
  }
  EXPECT_EQ(seen, (std::set<int32_t>{1, 3, 4}));
}

TEST(SamplerTest, KeyedBySeedAndPosition) {
  const std::vector<float> flat(1000, 0);
  std::set<int32_t> drawn;
  for (const uint64_t seed : {0u, 1u}) {
    for (int64_t position = 0; position < 50; ++position) {
      const int32_t token = SampleToken(flat, {.seed = seed}, position);
      EXPECT_EQ(SampleToken(flat, {.seed = seed}, position), token);
      drawn.insert(token);
    }
  }
  EXPECT_GT(drawn.size(), 80u);  // 100 draws of 1000 have about 95 different values
}

// 20,000 draws: a share's standard deviation is at most .0036; 5 of them.
TEST(SamplerTest, SharesAreThoseOfTheSoftmax) {
  for (const double temperature : {0.5, 1.0, 2.0}) {
    std::vector<double> expected;
    double total = 0;
    for (const float logit : kLogits) total += std::exp(logit / temperature);
    for (const float logit : kLogits) expected.push_back(std::exp(logit / temperature) / total);
    std::vector<int> count(kLogits.size());
    constexpr int kDraws = 20000;
    for (int64_t position = 0; position < kDraws; ++position) {
      ++count[static_cast<size_t>(SampleToken(kLogits, {.temperature = temperature}, position))];
    }
    for (size_t id = 0; id < count.size(); ++id) {
      EXPECT_NEAR(double(count[id]) / kDraws, expected[id], 0.018) << temperature << " " << id;
    }
  }
}

TEST(SamplerTest, LargeLogits_DoNotOverflow) {
  const std::vector<float> logits = {-3e38f, 3e38f, 0};
  EXPECT_EQ(SampleToken(logits, {.temperature = 1}, 1), 1);
  EXPECT_EQ(SampleToken(logits, {.temperature = 1e-6}, 1), 1);
}

}  // namespace
}  // namespace sdp

#include "common/export/parts.h"

#include "gtest/gtest.h"

namespace sdp {
namespace {

std::vector<SafetensorsWriter::Tensor> Tensors(const std::vector<int64_t>& elements) {
  std::vector<SafetensorsWriter::Tensor> tensors;
  for (const int64_t n : elements) {
    tensors.push_back({"t" + std::to_string(tensors.size()), "F32", {n}});
  }
  return tensors;
}

using Sizes = std::vector<size_t>;

TEST(PartsTest, TensorsStayInOrderAndFillEachPart) {
  // 1 GB each, and headers: four fit in 5 GB, not five.
  const std::vector<int64_t> gigabytes(9, 250'000'000);
  EXPECT_EQ(PlanParts(Tensors(gigabytes), {}, 5'000'000'000), (Sizes{4, 4, 1}));
  EXPECT_EQ(PlanParts(Tensors(gigabytes), {}, 100'000'000'000), (Sizes{9}));
}

TEST(PartsTest, LargerThanAPart_HasOneOfItsOwn) {
  EXPECT_EQ(PlanParts(Tensors({1, 1000, 1, 1}), {}, 600), (Sizes{1, 1, 2}));
  EXPECT_EQ(PlanParts(Tensors({1000, 1000}), {}, 1), (Sizes{1, 1}));
}

TEST(PartsTest, Names) {
  EXPECT_EQ(PartName(0, 1), "model.safetensors");
  EXPECT_EQ(PartName(1, 3), "model-00002-of-00003.safetensors");
}

}  // namespace
}  // namespace sdp

#include "common/base/natural_order.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

namespace sdp {
namespace {

std::vector<std::string> Sorted(std::vector<std::string> names) {
  std::sort(names.begin(), names.end(), NaturalLess);
  return names;
}

TEST(NaturalOrderTest, Digits_CompareAsNumbers) {
  EXPECT_EQ(Sorted({"worker-10", "worker-2", "worker-1", "worker-0"}),
            (std::vector<std::string>{"worker-0", "worker-1", "worker-2", "worker-10"}));
  EXPECT_EQ(Sorted({"rack10-node1", "rack2-node30", "rack2-node4"}),
            (std::vector<std::string>{"rack2-node4", "rack2-node30", "rack10-node1"}));
}

TEST(NaturalOrderTest, NumberLongerThanAnyInteger_StillCompares) {
  EXPECT_TRUE(NaturalLess("w99999999999999999999999998", "w99999999999999999999999999"));
  EXPECT_TRUE(NaturalLess("w99999999999999999999999999", "w100000000000000000000000000"));
}

TEST(NaturalOrderTest, PrefixAndEmpty_ComeFirst) {
  EXPECT_TRUE(NaturalLess("", "a"));
  EXPECT_TRUE(NaturalLess("worker", "worker-0"));
  EXPECT_FALSE(NaturalLess("", ""));
}

// Sorting and sets need a strict total order over distinct names, leading zeros and bytes above 127
// included.
TEST(NaturalOrderTest, IsStrictTotalOrder) {
  const std::vector<std::string> names = {"",   "0",   "00",  "1",   "01",    "001", "10", "a",
                                          "a1", "a01", "a1b", "a2",  "a\xff", "a-1", "a0", "a00",
                                          "b",  "1a",  "01a", "1a1", "01a01", "10a"};
  for (const std::string& a : names) {
    EXPECT_FALSE(NaturalLess(a, a)) << a;
    for (const std::string& b : names) {
      if (a != b) {
        EXPECT_NE(NaturalLess(a, b), NaturalLess(b, a)) << a << " " << b;
      }
      for (const std::string& c : names) {
        if (NaturalLess(a, b) && NaturalLess(b, c)) {
          EXPECT_TRUE(NaturalLess(a, c)) << a << " " << b << " " << c;
        }
      }
    }
  }
}

}  // namespace
}  // namespace sdp

// Every *_test.cc under tests/ is one that ctest runs: its folder's CMakeLists.txt names it in an
// sdp_test.
#include <filesystem>
#include <fstream>
#include <set>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sdp {
namespace {

using ::testing::ElementsAre;

// The names that stand first in `sdp_test(...)` of a CMakeLists.txt, comments left out.
std::set<std::string> RegisteredTests(absl::string_view cmake) {
  std::string text;
  for (absl::string_view line : absl::StrSplit(cmake, '\n')) {
    absl::StrAppend(&text, line.substr(0, line.find('#')), "\n");
  }
  std::set<std::string> names;
  const std::string kCall = "sdp_test(";
  for (size_t at = text.find(kCall); at != std::string::npos; at = text.find(kCall, at + 1)) {
    absl::string_view rest =
        absl::StripLeadingAsciiWhitespace(absl::string_view(text).substr(at + kCall.size()));
    names.emplace(rest.substr(0, rest.find_first_of(" \t\n)")));
  }
  return names;
}

std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

TEST(RegisteredTestsTest, ReadsNamesAndSkipsComments) {
  EXPECT_THAT(RegisteredTests("sdp_test(a_test LOGIC DEPS x)\n"
                              "# sdp_test(off_test)\n"
                              "sdp_test(\n  b_test)\n"
                              "my_sdp_library(c_test)\n"),
              ElementsAre("a_test", "b_test"));
}

TEST(RegistrationTest, EveryTestFile_IsNamedInItsFolder) {
  const std::filesystem::path tests = absl::StrCat(SDP_SOURCE_DIR, "/tests");
  int found = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(tests)) {
    const std::filesystem::path& path = entry.path();
    const std::string stem = path.stem();
    if (path.extension() != ".cc" || !std::string_view(stem).ends_with("_test")) continue;
    ++found;
    EXPECT_EQ(path.parent_path().parent_path(), tests)
        << path << ": tests/CMakeLists.txt adds the folders right under tests/ only";
    EXPECT_EQ(RegisteredTests(ReadFile(path.parent_path() / "CMakeLists.txt")).count(stem), 1u)
        << path << " is in no sdp_test of its folder's CMakeLists.txt, so nothing runs it";
  }
  EXPECT_GT(found, 10) << "the tests were not found under " << tests;
}

}  // namespace
}  // namespace sdp

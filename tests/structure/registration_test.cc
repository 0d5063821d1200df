// Every *_test.cc under tests/ is one that ctest runs: some sdp_test names it.
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <string_view>

#include "gtest/gtest.h"
#include "tests/places/places.h"

namespace sdp {
namespace {

// Written when the build is configured: the source of each sdp_test, one a line.
std::set<std::string> RegisteredTests() {
  std::ifstream list(TestBinFolder() / "registered.txt");
  std::set<std::string> files;
  std::string line;
  while (std::getline(list, line)) files.insert(line);
  return files;
}

TEST(RegistrationTest, EveryTestFile_IsAnSdpTest) {
  const std::set<std::string> registered = RegisteredTests();
  ASSERT_TRUE(registered.contains(SourceFolder() / "tests/structure/registration_test.cc"));
  for (const auto& entry :
       std::filesystem::recursive_directory_iterator(SourceFolder() / "tests")) {
    const std::string file = entry.path();
    if (!std::string_view(file).ends_with("_test.cc")) continue;
    EXPECT_TRUE(registered.contains(file)) << file << " is in no sdp_test, so nothing runs it";
  }
}

}  // namespace
}  // namespace sdp

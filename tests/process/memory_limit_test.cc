#include "common/process/memory_limit.h"

#include <filesystem>
#include <fstream>
#include <optional>

#include "gtest/gtest.h"
#include "tests/cluster_process/temp_folder.h"

namespace sdp {
namespace {

class MemoryLimitTest : public ::testing::Test {
 protected:
  void Write(const std::string& name, const std::string& text) {
    const std::string path = folder_ / name;
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::ofstream(path) << text << "\n";
  }
  std::optional<int64_t> Limit() { return CgroupMemoryLimit(folder_ / "proc", folder_ / "sys"); }

  TempFolder folder_;
};

TEST_F(MemoryLimitTest, NothingToRead_None) { EXPECT_EQ(Limit(), std::nullopt); }

TEST_F(MemoryLimitTest, Version2_TheLeastOnTheWayUp) {
  Write("proc/cgroup", "0::/pods/pod-1/worker");
  Write("sys/pods/pod-1/worker/memory.max", "max");
  EXPECT_EQ(Limit(), std::nullopt);
  Write("sys/pods/pod-1/memory.max", "5000");
  Write("sys/pods/memory.max", "9000");
  EXPECT_EQ(Limit(), 5000);
  Write("sys/pods/pod-1/worker/memory.max", "3000");
  EXPECT_EQ(Limit(), 3000);
}

TEST_F(MemoryLimitTest, InAContainer_TheRootIsTheGroup) {
  Write("proc/cgroup", "0::/not/mounted/here");
  Write("sys/memory.max", "7000");
  EXPECT_EQ(Limit(), 7000);
}

TEST_F(MemoryLimitTest, Version1_OfTheMemoryController) {
  Write("proc/cgroup", "5:cpu,cpuacct:/a\n4:memory:/b\n0::/");
  Write("sys/memory/b/memory.limit_in_bytes", "9223372036854771712");  // none is set
  Write("sys/memory/a/memory.limit_in_bytes", "1");
  EXPECT_EQ(Limit(), std::nullopt);
  Write("sys/memory/b/memory.limit_in_bytes", "4000");
  EXPECT_EQ(Limit(), 4000);
}

TEST_F(MemoryLimitTest, Nonsense_None) {
  Write("proc/cgroup", "what\n::\n0::/a");
  Write("sys/a/memory.max", "some");
  EXPECT_EQ(Limit(), std::nullopt);
}

}  // namespace
}  // namespace sdp

#include "deploy/cluster/startup_folder.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/cluster_process/temp_folder.h"

namespace sdp {
namespace {

namespace fs = std::filesystem;

TEST(StartupFolderTest, Make_ParentIsAFile_IsAnErrorThatNamesIt) {
  TempFolder folder;
  WriteAll(folder / "file", "");
  const auto startup = StartupFolder::Make(folder / "file/run");
  ASSERT_FALSE(startup.ok());
  EXPECT_NE(startup.status().message().find(folder / "file"), absl::string_view::npos);
}

TEST(StartupFolderTest, Make_MissingParents_AreMadeButNotTheRunFolder) {
  TempFolder folder;
  const auto startup = StartupFolder::Make(folder / "runs/a/");
  ASSERT_TRUE(startup.ok()) << startup.status();
  EXPECT_TRUE(fs::exists(folder / "runs"));
  EXPECT_FALSE(fs::exists(folder / "runs/a"));
}

TEST(StartupFolderTest, Address_BeforeTheFileIsClosed_IsNothing) {
  TempFolder folder;
  const auto startup = StartupFolder::Make(folder / "run");
  ASSERT_TRUE(startup.ok()) << startup.status();
  EXPECT_EQ((*startup)->Address(), std::nullopt);
  std::ofstream file((*startup)->address_path());
  file << "127.0.0.1:1" << std::flush;
  EXPECT_EQ((*startup)->Address(), std::nullopt);
  file << "234\n";
  file.close();
  EXPECT_EQ((*startup)->Address(), "127.0.0.1:1234");
  EXPECT_EQ((*startup)->Address(), "127.0.0.1:1234");
}

TEST(StartupFolderTest, Address_RenamedIntoPlace_IsComplete) {
  TempFolder folder;
  const auto startup = StartupFolder::Make(folder / "run");
  ASSERT_TRUE(startup.ok()) << startup.status();
  WriteAll((*startup)->address_path() + ".new", "unix:/tmp/a");
  EXPECT_EQ((*startup)->Address(), std::nullopt);
  fs::rename((*startup)->address_path() + ".new", (*startup)->address_path());
  EXPECT_EQ((*startup)->Address(), "unix:/tmp/a");
}

TEST(StartupFolderTest, Destructor_LeavesNothing) {
  TempFolder folder;
  {
    const auto startup = StartupFolder::Make(folder / "run");
    ASSERT_TRUE(startup.ok()) << startup.status();
    WriteAll((*startup)->log_path(), "text");
  }
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

}  // namespace
}  // namespace sdp

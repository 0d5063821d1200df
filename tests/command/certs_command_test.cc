#include "deploy/command/certs_command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/config/config.h"
#include "common/data/small_file.h"
#include "common/tls/token.h"
#include "common/tls/verify.h"
#include "tests/cluster_process/temp_folder.h"

namespace sdp {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class CertsCommandTest : public testing::Test {
 protected:
  std::string File(const std::string& name) const {
    return ReadSmallFile(absl::StrCat(out_, "/", name), 1 << 20).value();
  }
  static mode_t Mode(const std::string& path) {
    struct stat status = {};
    EXPECT_EQ(stat(path.c_str(), &status), 0) << path;
    return status.st_mode & 0777;
  }
  absl::Status Make(const std::string& name, std::vector<std::string> hosts = {}) {
    return RunCertsCommand({.out = out_, .name = name, .hosts = std::move(hosts)}, said_);
  }
  absl::Status Verify(const std::string& name, const std::string& host) const {
    return VerifyCertificate(File("ca.crt"), {File(name + ".crt"), ""},
                             {PeerSide::kServer, host, absl::Now()});
  }

  TempFolder folder_;
  const std::string out_ = absl::StrCat(folder_.path(), "/certs");
  std::ostringstream said_;
};

TEST_F(CertsCommandTest, MakesAllThatSecurityNames) {
  ASSERT_TRUE(Make("sdp", {"node-1.example.org", "10.1.2.3"}).ok());
  EXPECT_TRUE(
      CheckOwnCertificate(File("ca.crt"), File("sdp.crt"), File("sdp.key"), absl::Now()).ok());
  for (const char* host : {"localhost", "127.0.0.1", "::1", "node-1.example.org", "10.1.2.3"})
    EXPECT_TRUE(Verify("sdp", host).ok()) << host;
  EXPECT_FALSE(Verify("sdp", "node-2.example.org").ok());
  EXPECT_TRUE(ParseToken(File("token")).ok());
  for (const char* secret : {"ca.key", "sdp.key", "token"})
    EXPECT_EQ(Mode(absl::StrCat(out_, "/", secret)), 0600u) << secret;
  // What it prints can be pasted.
  const std::string said = said_.str();
  const size_t block = said.find("[security]");
  ASSERT_NE(block, std::string::npos) << said;
  const auto loaded =
      LoadConfigText(absl::StrCat("[model]\npreset = \"llama-tiny\"\n[data]\ntrain = [\"a\"]\n",
                                  said.substr(block)),
                     "run.toml", {});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->config.security().cert(), out_ + "/sdp.crt");
  EXPECT_EQ(loaded->config.security().token(), out_ + "/token");
}

TEST_F(CertsCommandTest, AgainWithAnotherName_HasTheSameAuthorityAndToken) {
  ASSERT_TRUE(Make("sdp").ok());
  const std::string authority = File("ca.crt"), token = File("token");
  ASSERT_TRUE(Make("worker-0", {"10.1.2.3"}).ok());
  EXPECT_EQ(File("ca.crt"), authority);
  EXPECT_EQ(File("token"), token);
  EXPECT_TRUE(Verify("worker-0", "10.1.2.3").ok());
}

TEST_F(CertsCommandTest, NothingIsOverwritten) {
  ASSERT_TRUE(Make("sdp").ok());
  const std::string key = File("sdp.key");
  const absl::Status again = Make("sdp");
  EXPECT_TRUE(absl::IsAlreadyExists(again)) << again;
  EXPECT_THAT(again.message(), AllOf(HasSubstr("sdp.crt"), HasSubstr("--name")));
  EXPECT_EQ(File("sdp.key"), key);
  std::ofstream(out_ + "/half.key") << "mine";
  EXPECT_TRUE(absl::IsAlreadyExists(Make("half")));
  EXPECT_EQ(File("half.key"), "mine");
}

TEST_F(CertsCommandTest, HalfAnAuthority_OrABadName_IsRefused) {
  for (const char* name : {"", "ca", "a/b", "..", "a b"})
    EXPECT_TRUE(absl::IsInvalidArgument(Make(name))) << name;
  EXPECT_TRUE(absl::IsInvalidArgument(Make("sdp", {"host:7000"})));
  ASSERT_EQ(std::remove((out_ + "/ca.key").c_str()), 0);
  EXPECT_TRUE(absl::IsFailedPrecondition(Make("sdp")));
}

}  // namespace
}  // namespace sdp

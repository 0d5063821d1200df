#include "server/coordinator/page/status_page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/coordinator/page/assets.h"
#include "server/coordinator/page/serve_page.h"
#include "tests/cluster_process/temp_folder.h"

namespace sdp {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;

HttpRequest Get(absl::string_view path, std::map<std::string, std::string> arguments = {}) {
  return {.method = "GET", .path = path, .arguments = std::move(arguments)};
}

// A run whose status and curves the test makes.
class StatusPageTest : public ::testing::Test {
 protected:
  StatusPage page_{[this](const proto::GetStatusRequest& request) {
    ++asked_;
    std::optional<StatusPage::Snapshot> snapshot;
    if (busy_) return snapshot;
    snapshot = snapshot_;
    if (!request.units()) snapshot->status.clear_units();
    return snapshot;
  }};
  StatusPage::Snapshot snapshot_;
  bool busy_ = false;
  int asked_ = 0;
};

StepMetrics StepOf(Step step) {
  StepMetrics metrics;
  metrics.step = step;
  metrics.loss = 2.123456789;
  metrics.samples = 8;
  metrics.elapsed = absl::Seconds(2);
  metrics.forward = absl::Seconds(1);
  return metrics;
}

TEST_F(StatusPageTest, OtherPaths_AreNotFound) {
  for (const char* const path :
       {"/nothing", "/../page.js", "/page.js/", "//page.js", "", "/status"})
    EXPECT_EQ(page_.Answer(Get(path)).status, 404) << path;
}

TEST_F(StatusPageTest, Files_NameOnlyFilesOfTheirOwn) {
  const HttpResponse index = page_.Answer(Get("/"));
  EXPECT_EQ(index.status, 200);
  EXPECT_THAT(index.type, HasSubstr("text/html"));
  const std::regex reference("(?:src|href)=\"([^\"]*)\"");
  int files = 0;
  for (std::sregex_iterator it(index.body.begin(), index.body.end(), reference), end; it != end;
       ++it) {
    const std::string name = (*it)[1];
    if (name == "data:,") continue;
    ++files;
    EXPECT_EQ(page_.Answer(Get(absl::StrCat("/", name))).status, 200) << name;
  }
  EXPECT_EQ(files, 3);
  for (const Asset& asset : PageAssets()) {
    EXPECT_FALSE(asset.bytes.empty()) << asset.path;
    if (asset.path == "/chart.min.js") continue;
    // What the content security policy would stop, and what would make markup of a member's name.
    for (const char* const never :
         {"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(",
          "onclick=", "style=\"", "<style", "https://"})
      EXPECT_FALSE(absl::StrContains(asset.bytes, never)) << asset.path << " has " << never;
  }
}

TEST_F(StatusPageTest, Data_HasStatusAndPoints) {
  snapshot_.status.set_phase("training");
  snapshot_.status.add_units()->set_name("layers.0.mlp");
  snapshot_.curves.Add(StepOf(0));
  const HttpResponse answer = page_.Answer(Get("/status.json"));
  EXPECT_EQ(answer.type, "application/json");
  const Json json = Json::parse(answer.body);
  EXPECT_EQ(json["status"]["phase"], "training");
  EXPECT_FALSE(json["status"].contains("units"));
  EXPECT_EQ(json["curves"]["from"], 0);
  EXPECT_EQ(json["curves"]["points"][0], Json::parse("[0, 2.12346, null, 4, 0, 2, 0, 1, 0, 0]"));
}

TEST_F(StatusPageTest, Since_GetsWhatIsNew) {
  for (Step step = 0; step < 5; ++step) snapshot_.curves.Add(StepOf(step));
  const Json first = Json::parse(page_.Answer(Get("/status.json")).body);
  EXPECT_EQ(first["curves"]["points"].size(), 5u);
  const Json second =
      Json::parse(page_.Answer(Get("/status.json", {{"since", first["curves"]["next"]}})).body);
  EXPECT_EQ(second["curves"]["from"], 4);
  EXPECT_EQ(second["curves"]["points"].size(), 1u);
}

TEST_F(StatusPageTest, Since_ThatIsNone_IsRefused) {
  for (const char* const bad : {"", "1", ".", "1.", ".1", "-1.2", "1.-2", "1.2.3", "a.b",
                                "99999999999999999999.1", "1.2 3"})
    EXPECT_EQ(page_.Answer(Get("/status.json", {{"since", bad}})).status, 400) << bad;
}

// However many look on, the loop is asked twice a second at most; units are asked for when wanted.
TEST_F(StatusPageTest, Snapshot_IsShared) {
  snapshot_.status.add_units()->set_name("layers.0.mlp");
  page_.Answer(Get("/status.json"));
  const absl::Time begin = absl::Now();
  for (int i = 0; i < 20; ++i) page_.Answer(Get("/status.json"));
  const Json with = Json::parse(page_.Answer(Get("/status.json", {{"units", "1"}})).body);
  const absl::Duration took = absl::Now() - begin;
  EXPECT_EQ(with["status"]["units"].size(), 1u);
  EXPECT_LE(asked_, 2 + took / StatusPage::kFreshFor);
}

TEST_F(StatusPageTest, LoopThatIsBusy_IsSaidToBe) {
  busy_ = true;
  EXPECT_EQ(page_.Answer(Get("/status.json")).status, 503);
  EXPECT_EQ(page_.Answer(Get("/")).status, 200);
}

// Bytes that are no text become something that is; markup stays text.
TEST_F(StatusPageTest, HostileNames_AreData) {
  auto* const member = snapshot_.status.add_members();
  member->set_name("</script><img src=x onerror=alert(1)>\"\\");
  snapshot_.status.add_events("{\"text\": \"\xff\xfe\"}");
  member->set_phase("\xff half a letter \xc3");
  const Json json = Json::parse(page_.Answer(Get("/status.json")).body);
  EXPECT_EQ(json["status"]["members"][0]["name"], member->name());
}

TEST(ServePageTest, BeyondLoopback_WantsAToken) {
  TempFolder folder;
  const auto nothing = [](const proto::GetStatusRequest&) {
    return std::optional<StatusPage::Snapshot>();
  };
  EXPECT_EQ(ServePage({}, nothing).value(), nullptr);
  const auto bare = ServePage({"0.0.0.0:0", "", {.insecure = true}}, nothing);
  EXPECT_EQ(bare.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(bare.status().message()), HasSubstr("--page-token"));
  const std::string file = folder / "token";
  std::ofstream(file) << "short\n";
  const auto bad = ServePage({"0.0.0.0:0", file, {.insecure = true}}, nothing);
  EXPECT_THAT(std::string(bad.status().message()), HasSubstr(file));
  std::ofstream(file) << "0123456789abcdef\n";
  EXPECT_TRUE(ServePage({"0.0.0.0:0", file, {.plain_http = true}}, nothing).ok());
  const auto plain = ServePage({"0.0.0.0:0", file, {}}, nothing);
  EXPECT_THAT(std::string(plain.status().message()), HasSubstr("--plain-http"));
  EXPECT_FALSE(ServePage({"", file, {}}, nothing).ok());
}

}  // namespace
}  // namespace sdp

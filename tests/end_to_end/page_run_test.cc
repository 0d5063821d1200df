// The status page of a run of real processes, looked at in a browser while they train.
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/end_to_end/train_fixture.h"
#include "tests/http/http_client.h"

namespace sdp {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class PageRunTest : public TrainFixture {
 protected:
  // Until StopTraining.
  void StartTraining() {
    training_ = std::thread([this] {
      trained_ = Shell(absl::StrCat(
          "bash -c '", Program("sdp"), " train ", Config(),
          " --set run.dir=", RunDir("run").string(),
          " --set train.steps=100000 --set train.eval_every=10 --set checkpoint.every=20"
          " > said & echo $! > train.pid; wait $!'"));
    });
  }
  // Until the run ends.
  void StartGuest(const std::string& coordinator) {
    std::ofstream(folder_ / "join")
        << "exec " << Program("sdp-worker") << " --config " << RunDir("run").string()
        << "/config.toml --coordinator " << coordinator << " --name guest.1\n";
    joining_ = std::thread([this] { joined_ = Shell("bash join"); });
  }
  void StopTraining() {
    Shell("bash -c 'kill -TERM $(cat train.pid)'");
    training_.join();
    if (joining_.joinable()) joining_.join();
    EXPECT_EQ(trained_.exit_status, 130) << trained_.output;
  }

  // Where the run says that its page is; "": not in time.
  std::string PageAddress() const {
    const std::regex line("status page: http://([0-9.:]+)/");
    for (const absl::Time end = absl::Now() + absl::Seconds(60); absl::Now() < end;) {
      std::ifstream file(folder_ / "said");
      const std::string said{std::istreambuf_iterator<char>(file), {}};
      if (std::smatch match; std::regex_search(said, match, line)) return match[1];
    }
    return "";
  }
  // What the page is told, once so many workers train and so many steps are done.
  static Json DataAfter(const std::string& page, int64_t workers, int64_t steps) {
    Json status;
    for (const absl::Time end = absl::Now() + absl::Seconds(80); absl::Now() < end;) {
      const Json data =
          Json::parse(HttpBody(HttpGet(page, "/status.json?units=1")), nullptr, false);
      if (!data.is_object()) continue;
      status = data["status"];
      if (status["committed"] >= steps &&
          status["all_workers"]["states"].value("training", 0) >= workers)
        return data;
    }
    ADD_FAILURE() << "not in time: " << status.dump(1);
    return nullptr;
  }

  // Runs the browser until the page has polled a few times.
  Outcome Browse(const std::string& page, const std::string& what, const std::string& size) const {
    return Shell(absl::StrCat(
        Browser(), " --no-sandbox --disable-gpu --hide-scrollbars ",
        "--enable-logging=stderr --user-data-dir=", (folder_ / "browser").string(),
        " --window-size=", size, " --virtual-time-budget=4000 ", what, " http://", page, "/"));
  }
  static std::string Browser() {
    for (const char* const name : {"chromium-headless-shell", "chromium"}) {
      if (std::system(absl::StrCat("command -v ", name, " > /dev/null").c_str()) == 0) return name;
    }
    return "";
  }

  std::thread training_, joining_;
  Outcome trained_, joined_;
};

// Of the units that are not shared, those that each worker holds, as the status has them.
std::map<std::string, std::set<std::string>> Held(const Json& status) {
  std::map<std::string, std::set<std::string>> held;
  for (const Json& unit : status["units"]) {
    for (const Json& name : unit["holder_names"])
      held[name.get<std::string>()].insert(unit["name"].get<std::string>());
  }
  return held;
}

// The same, as the picture in the page has them.
std::map<std::string, std::set<std::string>> Pictured(const std::string& dom) {
  std::map<std::string, std::set<std::string>> held;
  const std::regex row("data-worker=\"([^\"]*)\" data-units=\"([^\"]*)\"");
  for (std::sregex_iterator it(dom.begin(), dom.end(), row), end; it != end; ++it) {
    const std::string units = (*it)[2].str();
    held[(*it)[1].str()] = absl::StrSplit(units, ' ');
  }
  return held;
}

// The number in the first text of this form; -1: there is none.
int64_t Number(const std::string& text, const std::string& form) {
  std::smatch match;
  return std::regex_search(text, match, std::regex(form)) ? std::stoll(match[1]) : -1;
}

int Count(const std::string& text, const std::string& what) {
  return static_cast<int>(std::vector<std::string>(absl::StrSplit(text, what)).size()) - 1;
}

TEST_F(PageRunTest, ShowsTheRun_InABrowser) {
  if (Browser().empty())
    GTEST_SKIP() << "no chromium-headless-shell on PATH (deploy/dependencies/install --tests)";
  StartTraining();
  const std::string page = PageAddress();
  Json data;
  Outcome dom, desktop, phone;
  const std::string shots = TestBinFolder() / "status_page";
  if (!page.empty() && !DataAfter(page, 4, 10)["status"].is_null()) {
    std::string coordinator;
    std::ifstream(RunDir("run") / "coordinator.address") >> coordinator;
    StartGuest(coordinator);
    data = DataAfter(page, 5, 60);
    dom = Browse(page, "--dump-dom", "1280,900");
    desktop = Browse(page, absl::StrCat("--screenshot=", shots, "-desktop.png"), "1280,1500");
    phone = Browse(page, absl::StrCat("--screenshot=", shots, "-phone.png"), "390,3200");
  }
  StopTraining();
  ASSERT_FALSE(page.empty()) << trained_.output;
  ASSERT_TRUE(data.is_object()) << joined_.output;
  EXPECT_GT(data["curves"]["points"].size(), 50u);

  ASSERT_EQ(dom.exit_status, 0) << dom.output;
  // The browser's word for what the content security policy stopped, and for errors of ours.
  EXPECT_THAT(dom.output, Not(HasSubstr("CONSOLE")));
  EXPECT_THAT(dom.output, HasSubstr("id=\"contact\">live<"));
  EXPECT_THAT(dom.output, HasSubstr("class=\"pill good\">training<"));
  EXPECT_THAT(dom.output, HasSubstr("of 100,000 steps"));
  EXPECT_GE(Number(dom.output, "checkpoint (\\d+) is complete"), 20);
  EXPECT_GT(Number(dom.output, "subnetworks, mean (\\d+) points up to step"), 50);
  EXPECT_GT(Number(dom.output, "full model, validation (\\d+) points up to step"), 3);
  EXPECT_EQ(Count(dom.output, "data-label=\"Name\""), 7);
  EXPECT_EQ(Pictured(dom.output), Held(data["status"]));
  EXPECT_EQ(Pictured(dom.output).size(), 5u);
  EXPECT_THAT(dom.output, HasSubstr("guest.1"));
  for (const char* const shot : {"-desktop.png", "-phone.png"})
    EXPECT_GT(fs::file_size(shots + shot), 30'000u) << desktop.output << phone.output;
}

TEST_F(PageRunTest, None_ServesNone_AndElsewhereIsRefused) {
  const Outcome none = Train("none", "--page none");
  EXPECT_EQ(none.exit_status, 0) << none.output;
  EXPECT_THAT(none.output, Not(HasSubstr("status page")));
  const Outcome elsewhere = Train("elsewhere", "--page 0.0.0.0:8080");
  EXPECT_EQ(elsewhere.exit_status, 2) << elsewhere.output;
  EXPECT_THAT(elsewhere.output, HasSubstr("--page 0.0.0.0:8080: allowed are none and an address"));
}

}  // namespace
}  // namespace sdp

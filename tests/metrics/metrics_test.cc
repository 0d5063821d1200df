// Metrics of all roles against Prometheus' own tool, and the alert rules against the metrics and
// the runbook.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <prometheus/text_serializer.h>

#include <cctype>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "common/metrics/families.h"
#include "common/metrics/metrics_server.h"
#include "server/coordinator/service/run_metrics.h"
#include "server/shard/service/shard_metrics.h"
#include "tests/cluster_process/temp_folder.h"
#include "tests/http/http_client.h"
#include "tests/places/places.h"
#include "worker/service/worker_metrics.h"

namespace sdp {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

// A status with everything in it that makes a metric.
proto::RunStatus FullRun() {
  proto::RunStatus run;
  run.set_phase("training");
  run.set_loss(2.5);
  run.set_full_loss(2.25);
  run.set_eta_sec(60);
  run.set_checkpoint(10);
  (*run.mutable_all_workers()->mutable_states())["training"] = 3;
  (*run.mutable_all_shards()->mutable_states())["serving"] = 2;
  (*run.mutable_totals()->mutable_events())["exclude"] = 1;
  run.mutable_totals()->set_steps(11);
  return run;
}

using AllFamilies = std::vector<std::vector<prometheus::MetricFamily>>;
AllFamilies FamiliesOfAllRoles() {
  proto::WorkerStatus worker;
  worker.mutable_totals()->set_steps(7);
  return {FamiliesOf(FullRun(), MemoryOfThisProcess()), FamiliesOf(proto::ShardStatus()),
          FamiliesOf(worker)};
}

std::string TextOf(const std::vector<prometheus::MetricFamily>& families) {
  return prometheus::TextSerializer().Serialize(families);
}

bool HasPromtool() { return std::system("command -v promtool > /dev/null") == 0; }
#define SKIP_WITHOUT_PROMTOOL() \
  if (!HasPromtool()) GTEST_SKIP() << "no promtool on PATH (deploy/dependencies/install --tests)"

std::string ReadAll(const std::filesystem::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

const std::filesystem::path& Monitoring() {
  static const auto* const folder =
      new std::filesystem::path(SourceFolder() / "deploy" / "monitoring");
  return *folder;
}

TEST(MetricsTest, Address_ThatIsNone_IsRefusedByName) {
  const auto nothing = [] { return std::vector<prometheus::MetricFamily>(); };
  EXPECT_EQ(ServeMetrics("", {}, nothing).value(), nullptr);
  for (const char* const bad : {"9100", "127.0.0.1:70000", "0.0.0.0:0"}) {
    const auto server = ServeMetrics(bad, {}, nothing);
    EXPECT_FALSE(server.ok());
    EXPECT_THAT(std::string(server.status().message()),
                HasSubstr(absl::StrCat("--metrics: ", bad)));
  }
  EXPECT_TRUE(ServeMetrics("0.0.0.0:0", {.insecure = true}, nothing).ok());
}

TEST(MetricsTest, Scrape_IsWhatIsCollectedThen) {
  double steps = 1;
  const auto server = ServeMetrics("localhost:0", {}, [&steps] {
    Families families;
    families.Counter("sdp_run_steps_total", "Steps.", steps, {{"a", "b"}});
    return std::move(families).Take();
  });
  ASSERT_TRUE(server.ok()) << server.status();
  steps = 41;
  const std::string answer = HttpGet((*server)->address(), "/metrics");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(HttpBody(answer), HasSubstr("# TYPE sdp_run_steps_total counter\n"
                                          "sdp_run_steps_total{a=\"b\"} 41\n"));
  EXPECT_THAT(HttpGet((*server)->address(), "/"), HasSubstr(" 404 Not Found"));
}

TEST(MetricsTest, NamesOfARole_AreInItsOwnFamilies_EachOnce) {
  for (const auto& families : FamiliesOfAllRoles()) {
    std::set<std::string> names;
    for (const auto& family : families) {
      EXPECT_TRUE(names.insert(family.name).second) << family.name;
      EXPECT_FALSE(family.metric.empty()) << family.name;
    }
  }
}

TEST(MetricsTest, AllRoles_PassPromtoolsCheck) {
  SKIP_WITHOUT_PROMTOOL();
  TempFolder folder;
  for (const auto& families : FamiliesOfAllRoles()) {
    const std::string file = folder / "metrics", said = folder / "said";
    std::ofstream(file) << TextOf(families);
    const int status =
        std::system(absl::StrCat("promtool check metrics < ", file, " > ", said, " 2>&1").c_str());
    EXPECT_EQ(status, 0) << ReadAll(said);
    EXPECT_EQ(ReadAll(said), "");
  }
}

TEST(MetricsTest, AlertRules_FireWhenTheyShould) {
  SKIP_WITHOUT_PROMTOOL();
  TempFolder folder;
  const std::string said = folder / "said";
  const int status = std::system(
      absl::StrCat("cd ", Monitoring().string(), " && promtool check rules alerts.yaml > ", said,
                   " 2>&1 && promtool test rules alerts_test.yaml >> ", said, " 2>&1")
          .c_str());
  EXPECT_EQ(status, 0) << ReadAll(said);
}

TEST(MetricsTest, AlertRulesAndDashboard_AskForMetricsThatExist) {
  std::set<std::string> known;
  for (const auto& families : FamiliesOfAllRoles()) {
    for (const auto& family : families) known.insert(family.name);
  }
  for (const char* const file : {"alerts.yaml", "dashboard.json"}) {
    const std::string text = ReadAll(Monitoring() / file);
    ASSERT_FALSE(text.empty()) << file;
    const std::regex name("\\bsdp_[a-z_]+");
    for (std::sregex_iterator it(text.begin(), text.end(), name), end; it != end; ++it)
      EXPECT_TRUE(known.contains(it->str())) << file << ": " << it->str();
  }
}

// Each expression as a rule, since that is what promtool can check.
TEST(MetricsTest, Dashboard_HasPanelsThatDoNotOverlap_WithExpressionsThatParse) {
  const auto dashboard = nlohmann::json::parse(ReadAll(Monitoring() / "dashboard.json"));
  TempFolder folder;
  const std::string rules = folder / "rules.yaml", said = folder / "said";
  std::ofstream file(rules);
  file << "groups:\n- name: dashboard\n  rules:\n";
  std::set<std::pair<int, int>> taken;  // cells of the page, 24 in a row
  int expressions = 0;
  for (const auto& panel : dashboard.at("panels")) {
    EXPECT_NE(panel.at("description"), "") << panel;
    const auto& place = panel.at("gridPos");
    const int left = place.at("x"), top = place.at("y"), width = place.at("w"),
              height = place.at("h");
    EXPECT_LE(left + width, 24) << panel;
    for (int x = left; x < left + width; ++x) {
      for (int y = top; y < top + height; ++y)
        EXPECT_TRUE(taken.emplace(x, y).second) << panel.at("title") << " overlaps another";
    }
    for (const auto& target : panel.at("targets")) {
      const std::string expression = absl::StrReplaceAll(
          target.at("expr").get<std::string>(), {{"$__rate_interval", "5m"}, {"$job", "sdp"}});
      file << "  - record: dashboard:" << ++expressions << "\n    expr: '" << expression << "'\n";
    }
  }
  file.close();
  EXPECT_GT(expressions, 0);
  SKIP_WITHOUT_PROMTOOL();
  EXPECT_EQ(std::system(absl::StrCat("promtool check rules ", rules, " > ", said, " 2>&1").c_str()),
            0)
      << ReadAll(said);
}

// An anchor is its heading in lower case with dashes.
TEST(MetricsTest, EveryAlert_NamesAnEntryOfTheRunbook_WhichNamesIt) {
  const std::string rules = ReadAll(Monitoring() / "alerts.yaml");
  const std::string runbook = ReadAll(SourceFolder() / "deploy" / "README.md");
  std::set<std::string> anchors;
  const std::regex heading("\n### ([^\n]+)");
  for (std::sregex_iterator it(runbook.begin(), runbook.end(), heading), end; it != end; ++it)
    anchors.insert(absl::StrReplaceAll(absl::AsciiStrToLower((*it)[1].str()), {{" ", "-"}}));
  const std::regex alert("alert: (\\w+)[\\s\\S]*?runbook: deploy/README.md#([a-z-]+)");
  int alerts = 0;
  for (std::sregex_iterator it(rules.begin(), rules.end(), alert), end; it != end; ++it, ++alerts) {
    EXPECT_TRUE(anchors.contains((*it)[2].str())) << (*it)[2].str();
    EXPECT_THAT(runbook, HasSubstr(absl::StrCat("`", (*it)[1].str(), "`")));
  }
  EXPECT_EQ(alerts, 11);
}

}  // namespace
}  // namespace sdp

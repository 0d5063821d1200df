// What a person who operates a run asks it, of real processes while they train.
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/end_to_end/train_fixture.h"
#include "tests/http/http_client.h"

namespace sdp {
namespace {

using ::testing::HasSubstr;

class OperateRunTest : public TrainFixture {
 protected:
  std::string Sdp(const std::string& command) const {
    return absl::StrCat(Program("sdp"), " ", command, " ", RunDir("run").string());
  }
  // The run's status once it has done so many steps; null: not in time.
  Json StatusAfter(int64_t steps) const {
    for (const absl::Time end = absl::Now() + absl::Seconds(80); absl::Now() < end;) {
      const Outcome outcome = Shell(Sdp("status --units --json"));
      if (outcome.exit_status == 0) {
        Json status = Json::parse(outcome.output);
        // A heartbeat has told where each worker is asked.
        bool told = true;
        for (const Json& member : status.value("members", Json::array()))
          told = told && member.contains("metrics_address") && member.contains("address");
        if (status.value("committed", -1) >= steps && told) return status;
      }
    }
    return nullptr;
  }
};

TEST_F(OperateRunTest, ProbesStatusMetricsAndTop_WhileItTrains) {
  Outcome trained;
  std::thread training([&] {
    trained = Shell(
        absl::StrCat("bash -c '", Program("sdp"), " train ", Config(),
                     " --metrics --set run.dir=", RunDir("run").string(),
                     " --set train.steps=100000 --set train.eval_every=0 --set checkpoint.every=0"
                     " & echo $! > train.pid; wait $!'"));
  });
  const Json status = StatusAfter(10);
  std::vector<std::string> metrics;
  if (status != nullptr) {
    metrics.push_back(status["metrics_address"]);
    EXPECT_EQ(status["all_workers"]["states"]["training"], 4);
    EXPECT_GT(status["totals"]["steps"], 10);
    EXPECT_GT(status["step_times"]["elapsed_sec"], 0);
    EXPECT_EQ(status["units"].size(), status["units_in_all"]);
    EXPECT_EQ(status["shards"][0]["blocks"].is_array(), true);
    EXPECT_EQ(status["members"].size(), 6u);
    for (const Json& member : status["members"]) {
      EXPECT_GT(member["memory_bytes"], 0) << member;
      metrics.push_back(member["metrics_address"]);
      const Outcome probe = Shell(
          absl::StrCat(Program("sdp"), " probe --ready ", member["address"].get<std::string>()));
      EXPECT_EQ(probe.exit_status, 0) << probe.output;
      EXPECT_THAT(probe.output, HasSubstr(" is ready"));
    }
  }
  for (const std::string& address : metrics) {
    const std::string body = HttpBody(HttpGet(address, "/metrics"));
    EXPECT_THAT(body, HasSubstr("process_resident_memory_bytes ")) << address;
    const std::string file = folder_ / "scraped";
    std::ofstream(file) << body;
    if (Shell("promtool --version").exit_status != 0)
      continue;  // metrics_test says that it is missing
    const Outcome checked = Shell(absl::StrCat("bash -c 'promtool check metrics < ", file, "'"));
    EXPECT_EQ(checked.exit_status, 0) << checked.output;
  }
  if (!metrics.empty()) {
    const std::string body = HttpBody(HttpGet(metrics[0], "/metrics"));
    EXPECT_THAT(body, HasSubstr("sdp_run_phase{phase=\"training\"} 1"));
    EXPECT_THAT(body, HasSubstr("sdp_run_members{role=\"worker\",state=\"training\"} 4"));
  }
  EXPECT_EQ(Shell(Sdp("probe")).exit_status, 0);
  const Outcome top = Shell(Sdp("top --frames 2"));
  EXPECT_EQ(top.exit_status, 0) << top.output;
  EXPECT_THAT(top.output, HasSubstr("worker-3"));
  Shell("bash -c 'kill -TERM $(cat train.pid)'");
  training.join();
  EXPECT_EQ(trained.exit_status, 130) << trained.output;
  ASSERT_NE(status, nullptr) << trained.output;

  const Outcome gone = Shell(Sdp("probe"));
  EXPECT_EQ(gone.exit_status, 1);
  EXPECT_THAT(gone.output, HasSubstr(" is not alive: "));
  int curves = 0;
  for (const auto& file : fs::directory_iterator(RunDir("run") / "tensorboard")) {
    ++curves;
    EXPECT_GT(fs::file_size(file), 1000u);
  }
  EXPECT_EQ(curves, 1);
}

}  // namespace
}  // namespace sdp

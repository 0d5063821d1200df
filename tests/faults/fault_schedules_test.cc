// Runs of real processes that are killed, stopped, drained and joined at moments that follow from a
// seed: the run ends in order, every step has its line, and the audit of its records finds each
// sample where it was promised. Where only servers fail, the bits are those of the undisturbed run.
// More of them: SDP_FAULT_SCHEDULES=200; one again: SDP_FIRST_FAULT_SCHEDULE=SEED
// SDP_FAULT_SCHEDULES=1.
#include <algorithm>
#include <cstdlib>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/random.h"
#include "deploy/cluster/local_cluster.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/end_to_end/disturbed_run.h"

namespace sdp {
namespace {

using ::testing::HasSubstr;

constexpr int kSteps = 50;

uint64_t Number(const char* name, uint64_t fallback) {
  const char* const given = std::getenv(name);
  return given == nullptr ? fallback : std::strtoull(given, nullptr, 10);
}

// What happens, as a shell script, and to whom.
struct Schedule {
  std::string script;
  bool only_servers = true;
};

class FaultSchedulesTest : public DisturbedRun {
 protected:
  std::string Join(int worker) const {
    return absl::StrCat(Program("sdp-worker"),
                        " --config $run/config.toml --coordinator $(cat $run/coordinator.address) "
                        "--name worker-",
                        worker, " --grace 60 & ");
  }
  static std::string Drain(const std::string& member) {
    return absl::StrCat(Program("sdp"), " drain $run ", member, "; ");
  }
  static std::string StopFor(const std::string& member, double seconds) {
    return absl::StrCat("pid=$(pgrep -P $top -f -- \"--name ", member,
                        "\" | tail -1); kill -STOP $pid; (sleep ", seconds,
                        "; kill -CONT $pid) & ");
  }

  // Four workers and two shards; half of the units is on two workers, so two stay.
  Schedule Make(uint64_t seed) const {
    RandomStream random(seed, 0xFA);
    Schedule schedule;
    int line = 1 + static_cast<int>(random.Below(8)), losses = 0, joined = 10;
    std::map<std::string, int> killed;  // servers: one more time than this ends the run
    const auto kill_server = [&](const std::string& server) {
      if (++killed[server] <= kMostRestarts)
        absl::StrAppend(&schedule.script, Kill("KILL", server));
    };
    for (uint64_t events = 1 + random.Below(4); events > 0; --events) {
      absl::StrAppend(&schedule.script, "lines ", line, "; sleep 0.0", random.Below(10), "; ");
      line += 1 + static_cast<int>(random.Below(14));
      const std::string worker = absl::StrCat("worker-", random.Below(4));
      const std::string shard = absl::StrCat("shard-", random.Below(2));
      const uint64_t what = random.Below(seed % 2 == 0 ? 5 : 10);  // even: servers alone
      schedule.only_servers &= what < 6;
      switch (what) {
        case 0:
          kill_server(shard);
          break;
        case 1:
          kill_server("coordinator");
          break;
        case 2:
          absl::StrAppend(&schedule.script, StopFor(shard, 1));
          break;
        case 3:
          absl::StrAppend(&schedule.script, StopFor("coordinator", 2));
          break;
        case 4:
          absl::StrAppend(&schedule.script, Drain(shard));
          break;
        case 5:
          absl::StrAppend(&schedule.script, StopFor(worker, 1));
          break;
        case 6:
        case 7:
          if (++losses <= 2) absl::StrAppend(&schedule.script, Kill("KILL", worker));
          break;
        case 8:
          if (++losses <= 2) absl::StrAppend(&schedule.script, Drain(worker));
          break;
        default:
          absl::StrAppend(&schedule.script, Join(joined++));
      }
    }
    return schedule;
  }

  // The newest generation's line of each step.
  std::map<int64_t, Json> Lines() const {
    std::map<int64_t, Json> lines;
    for (const Json& line : Metrics("run")) {
      Json& newest = lines[line["step"].get<int64_t>()];
      if (newest.is_null() || newest["generation"] <= line["generation"]) newest = line;
    }
    return lines;
  }
};

TEST_F(FaultSchedulesTest, EndInOrder_AndTheAuditAgrees) {
  const std::string settings = absl::StrCat("--set train.steps=", kSteps,
                                            " --set checkpoint.every=10 --set train.eval_every=9");
  ASSERT_EQ(Train("undisturbed", settings).exit_status, 0);
  const std::string hash = StateHash("undisturbed");
  const uint64_t first = Number("SDP_FIRST_FAULT_SCHEDULE", 0);
  for (uint64_t seed = first; seed < first + Number("SDP_FAULT_SCHEDULES", 20); ++seed) {
    const Schedule schedule = Make(seed);
    const Outcome outcome = During(schedule.script, settings);
    EXPECT_THAT(outcome.output, HasSubstr("exit=0"));
    EXPECT_EQ(Lines().size(), static_cast<size_t>(kSteps) + 1);
    const Outcome audit = Shell(absl::StrCat(Program("sdp"), " audit ", RunDir("run").string()));
    EXPECT_EQ(audit.exit_status, 0) << audit.output;
    if (schedule.only_servers) {
      EXPECT_EQ(StateHash("run"), hash);
    }
    ASSERT_FALSE(HasFailure()) << "seed " << seed << ": " << schedule.script << "\n"
                               << outcome.output;
    fs::remove_all(RunDir("run"));
  }
}

}  // namespace
}  // namespace sdp

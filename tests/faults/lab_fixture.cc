#include "tests/faults/lab_fixture.h"

#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <utility>

#include "absl/strings/str_split.h"
#include "absl/time/clock.h"

namespace sdp {
namespace {

constexpr absl::Duration kLook = absl::Milliseconds(5);
// Starting some processes at once on a busy machine takes its time.
constexpr absl::Duration kBegin = absl::Seconds(90);

// So a step of a tiny model takes a tenth of a second, and what happens to links comes amid the
// run.
constexpr char kFarCoordinator[] = "set h1 all delay=20ms";

// The number behind a member's kind, "coordinator" without one.
std::pair<std::string, int> KindAndNumber(const std::string& member) {
  const std::vector<std::string> parts = absl::StrSplit(member, '-');
  return {parts[0], parts.size() > 1 ? std::stoi(parts[1]) : 0};
}

}  // namespace

LabFixture::LabFixture()
    : lines_(RunDir("run") / "metrics.jsonl"), events_(RunDir("run") / "events.jsonl") {}

void LabFixture::SetUp() {
  if (!fs::exists(NetworkLabTool())) {
    GTEST_SKIP() << "no " << NetworkLabTool() << "; SDP_NETLAB names the tool that makes the hosts";
  }
  if (geteuid() != 0) GTEST_SKIP() << "hosts are network namespaces: they need root";
  if (!fs::exists("/dev/net/tun")) GTEST_SKIP() << "links between hosts need /dev/net/tun";
}

void LabFixture::TearDown() {
  if (processes_.empty()) return;
  if (HasFailure()) {
    const Outcome logs = Shell("bash -c 'tail -n 20 run/events.jsonl *.log'");
    std::fprintf(stderr, "%s\n", logs.output.c_str());
  }
  Clear();
}

void LabFixture::Clear() {
  processes_.clear();
  Shell(Lab("down"));
  fs::remove_all(RunDir("run"));
  lines_ = GrowingLines(RunDir("run") / "metrics.jsonl");
  events_ = GrowingLines(RunDir("run") / "events.jsonl");
}

std::string LabFixture::Lab(const std::string& words) const {
  // In the build's folder: what a program that was killed has left there, its next run takes down.
  const std::string suite =
      testing::UnitTest::GetInstance()->current_test_info()->test_suite_name();
  return absl::StrCat(NetworkLabTool().string(), " --state ",
                      (TestBinFolder() / ("lab-" + suite)).string(), " ", words);
}

void LabFixture::Links(const std::string& what) const {
  const Outcome outcome = Shell(Lab(what));
  ASSERT_EQ(outcome.exit_status, 0) << what << ": " << outcome.output;
}

Outcome LabFixture::Ask(const std::string& command) const {
  return Shell(
      Lab(absl::StrCat("exec h1 ", Program("sdp"), " ", command, " ", RunDir("run").string())));
}

std::string LabFixture::HostOf(const std::string& member) const {
  const auto [kind, number] = KindAndNumber(member);
  if (kind == "coordinator") return "h1";
  return absl::StrCat("h", (kind == "shard" ? 2 : 2 + size_.shards) + number);
}

void LabFixture::Start(const std::string& member, const std::vector<std::string>& more) {
  const std::string host = HostOf(member), kind = KindAndNumber(member).first;
  std::vector<std::string> args = absl::StrSplit(
      Lab(absl::StrCat("exec ", host, " ", Program("sdp-" + kind), " --insecure --config ",
                       Config(), " --set cluster.workers=", size_.workers, " --set cluster.shards=",
                       size_.shards, " --set run.dir=", RunDir("run").string())),
      ' ');
  for (const std::string& setting : settings_) args.insert(args.end(), {"--set", setting});
  if (kind != "worker") {
    args.insert(args.end(), {"--listen", absl::StrCat("10.77.0.", host.substr(1), ":7000")});
  }
  if (kind != "coordinator") {
    args.insert(args.end(), {"--coordinator", "10.77.0.1:7000", "--name", member});
  }
  args.insert(args.end(), more.begin(), more.end());
  const std::string log = folder_ / (member + ".log");
  absl::StatusOr<std::unique_ptr<Process>> process =
      Process::Start({.name = member,
                      .program = args[0],
                      .args = {args.begin() + 1, args.end()},
                      .stdout_path = log,
                      .stderr_path = log});
  ASSERT_EQ(process.status(), absl::OkStatus());
  processes_[member] = *std::move(process);
}

void LabFixture::Begin(const Size& size, const std::vector<std::string>& settings) {
  size_ = size;
  settings_ = settings;
  Shell(Lab("down"));
  Links(absl::StrCat("up ", 1 + size.shards + size.workers));
  Links(kFarCoordinator);
  Start("coordinator");
  Await("the coordinator listens", kBegin,
        [this] { return fs::exists(RunDir("run") / "coordinator.address"); });
  for (int shard = 0; shard < size.shards; ++shard) Start(absl::StrCat("shard-", shard));
  for (int worker = 0; worker < size.workers; ++worker) Start(absl::StrCat("worker-", worker));
  AwaitMoreLines(10, kBegin);
}

int LabFixture::Workers() { return Lines().empty() ? 0 : Lines().back().value("workers", 0); }

std::vector<Json> LabFixture::Events(const std::string& kind, const std::string& worker) {
  std::vector<Json> some;
  for (const Json& event : events_.Read()) {
    if (event["event"] == kind && (worker.empty() || event.value("worker", "") == worker))
      some.push_back(event);
  }
  return some;
}

double LabFixture::Await(const std::string& what, absl::Duration limit,
                         const std::function<bool()>& condition) {
  const absl::Time begin = absl::Now();
  bool holds = condition();
  while (!holds && absl::Now() - begin < limit) {
    absl::SleepFor(kLook);
    holds = condition();
  }
  const double seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  EXPECT_TRUE(holds) << "not within " << limit << ": " << what;
  std::printf("  %6.2f s  %s\n", seconds, what.c_str());
  return seconds;
}

double LabFixture::AwaitMoreLines(size_t count, absl::Duration limit) {
  const size_t enough = Lines().size() + count;
  return Await(absl::StrCat(count, " more steps"), limit, [&] { return Lines().size() >= enough; });
}

void LabFixture::ExpectEnd(absl::Duration limit, const std::string& coordinator) {
  const absl::Time deadline = absl::Now() + limit;
  for (const auto& [member, process] : processes_) {
    const std::optional<ExitStatus> end = process->WaitUntil(deadline);
    ASSERT_TRUE(end.has_value()) << member << " still runs after " << limit;
    EXPECT_EQ(Describe(*end), member == "coordinator" ? coordinator : "exit status 0") << member;
  }
  const Outcome audit = Shell(absl::StrCat(Program("sdp"), " audit ", RunDir("run").string()));
  EXPECT_EQ(audit.exit_status, 0) << audit.output;
}

void LabFixture::ExpectEndInOrder(absl::Duration limit) { ExpectEnd(limit, "exit status 0"); }

void LabFixture::ExpectStopInOrder(absl::Duration limit) {
  process("coordinator").Signal(SIGTERM);
  ExpectEnd(limit, "exit status 130");
}

}  // namespace sdp

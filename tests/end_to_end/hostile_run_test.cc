// A real run whose processes are attacked over their sockets while they train, in plaintext and
// with TLS: steps take about as long as without, nobody's memory grows, and it ends with the bits
// of a run that was left alone. Stretches of each kind of attack and quiet ones alternate, so that
// both see the same noise of the machine; attackers pause between bursts, as they share its cores.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "common/base/random.h"
#include "common/rpc/http2_limits.h"
#include "common/rpc/stream_name.h"
#include "common/wire/frame.h"
#include "tests/end_to_end/train_fixture.h"
#include "tests/rpc/http2_peer.h"

namespace sdp {
namespace {

using Speaks = Http2Peer::Speaks;

constexpr int kPasses = 2;
constexpr int kStretch = 15;  // steps of an attack, or of quiet
// A step of a stretch of attack may take, in the median, kSlower times what a quiet one takes and
// kPause more: attackers and what they cost share two cores with the run. One that waits for an
// attacker would take seconds: the shortest deadline of a connection is 5 s.
constexpr double kSlower = 3, kPauseSec = 0.15, kLongestSec = 4;
// Of a role, in a stretch: a huge message and what becomes of it. Without limits it would be
// hundreds.
constexpr int64_t kMostGrowth = int64_t{64} << 20;
constexpr absl::Duration kDeadline = absl::Seconds(60);

struct Role {
  std::string name;
  int pid = 0;
  std::string address;
  std::string unary, stream;  // methods that it has

  std::string Proc(const char* file) const { return absl::StrCat("/proc/", pid, "/", file); }
  int64_t MemoryBytes(const std::string& which) const {
    std::ifstream status(Proc("status"));
    for (std::string line; std::getline(status, line);) {
      if (line.rfind(which + ":", 0) == 0) return std::stoll(line.substr(which.size() + 1)) << 10;
    }
    return 0;
  }
  void ForgetPeak() const { std::ofstream(Proc("clear_refs")) << 5; }
  int64_t Descriptors() const {
    std::error_code gone;
    return std::distance(fs::directory_iterator(Proc("fd"), gone), fs::directory_iterator());
  }
};

// The connections of one kind of attack on one role: the newest stay until it is over.
class Crowd {
 public:
  explicit Crowd(size_t most) : most_(most) {}
  Http2Peer& Add(std::unique_ptr<Http2Peer> peer) {
    if (peers_.size() == most_) Drop();
    ++connections_;
    peers_.push_back(std::move(peer));
    return *peers_.back();
  }
  void Drop() {
    Http2Peer& oldest = *peers_.front();
    bytes_ += oldest.sent_bytes();
    noticed_ += oldest.AwaitEnd(absl::ZeroDuration()) || oldest.answered() ? 1 : 0;
    peers_.pop_front();
  }
  void DropAll() {
    while (!peers_.empty()) Drop();
  }

  int connections() const { return connections_; }
  int64_t bytes() const { return bytes_; }
  int noticed() const { return noticed_; }  // by the server: it answered, or ended them

 private:
  const size_t most_;
  std::deque<std::unique_ptr<Http2Peer>> peers_;
  int connections_ = 0, noticed_ = 0;
  int64_t bytes_ = 0;
};

struct Attack {
  std::string name;
  size_t connections;  // at a time, on one role
  std::function<void(const Role&, Crowd&)> burst;
  absl::Duration pause = absl::Milliseconds(20);  // between bursts

  // Over all of its stretches.
  int made = 0, noticed = 0;
  int64_t bytes = 0, accepted = 0, growth = 0;
  double cpu_sec = 0, sec = 0;
  std::vector<std::pair<size_t, size_t>> stretches = {};  // steps: from, to
};

double Quantile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(share * static_cast<double>(values.size() - 1))];
}

double CpuSec() {
  rusage used = {};
  getrusage(RUSAGE_SELF, &used);
  return absl::ToDoubleSeconds(absl::DurationFromTimeval(used.ru_utime) +
                               absl::DurationFromTimeval(used.ru_stime));
}

// The steps of a run that is going on.
class Progress {
 public:
  explicit Progress(const fs::path& run_dir) : path_(run_dir / "metrics.jsonl") {}
  size_t Steps() {
    if (!file_.is_open()) file_.open(path_);
    file_.clear();
    for (int byte; (byte = file_.get()) != EOF;) steps_ += byte == '\n' ? 1 : 0;
    return steps_;
  }
  bool Await(size_t steps) {
    for (const absl::Time deadline = absl::Now() + kDeadline; Steps() < steps;) {
      if (absl::Now() > deadline) return false;
      absl::SleepFor(absl::Milliseconds(2));
    }
    return true;
  }

 private:
  const fs::path path_;
  std::ifstream file_;
  size_t steps_ = 0;
};

class HostileRunTest : public TrainFixture {
 protected:
  std::string Options(const std::string& run, const std::string& steps) const {
    return absl::StrCat(
        " --set run.dir=", RunDir(run).string(),
        " --set cluster.workers=2 --set train.eval_every=0 --set train.steps=", steps);
  }
  // All roles as processes, whose numbers are in the file "pids", until the run is stopped.
  Outcome RunByHand(const std::string& run) const {
    const std::string common = absl::StrCat(" --config ", Config(), Options(run, "1000000"));
    std::string script = absl::StrCat(
        "bash -c 'set -m; start() { name=$1; shift; \"$@\" --name $name > $name.log 2>&1 & ",
        "echo $name $! >> pids; }; rm -f pids address; start coordinator ",
        Program("sdp-coordinator"), common, " --address-file address; top=$!; ",
        "for i in $(seq 300); do test -s address && break; sleep 0.1; done; ");
    for (const char* member : {"shard-0", "shard-1", "worker-0", "worker-1"}) {
      absl::StrAppend(
          &script, "start ", member, " ",
          Program(absl::StrCat("sdp-", std::string(member, std::string(member).find('-')))), common,
          " --coordinator $(cat address) --listen 127.0.0.1:0; ");
    }
    return Shell(script + "wait $top; echo exit=$?; wait; tail -n 3 *.log'");
  }

  // Empty: the run is not up.
  std::vector<Role> Roles(const std::string& run) const {
    std::ifstream pids(folder_ / "pids");
    std::map<std::string, int> pid;
    for (std::string name; pids >> name;) pids >> pid[name];
    const Outcome status = Shell(
        absl::StrCat(Program("sdp"), " status ", RunDir(run).string(), " --json 2>/dev/null"));
    const Json json = Json::parse(status.output, nullptr, /*allow_exceptions=*/false);
    std::vector<Role> roles(1);
    std::ifstream address(folder_ / "address");
    std::getline(address, roles[0].address);
    roles[0].name = "coordinator";
    if (json.is_object() && json.contains("members")) {
      for (const Json& member : json["members"])
        roles.push_back({.name = member["name"],
                         .pid = 0,
                         .address = member.value("address", ""),
                         .unary = "",
                         .stream = ""});
    }
    for (Role& role : roles) {
      const char type = role.name[0];
      const std::string service = type == 'c' ? "Coordinator" : type == 's' ? "Shard" : "Worker";
      role.pid = pid[role.name];
      role.unary = absl::StrCat("/sdp.proto.", service, "/GetStatus");
      role.stream = absl::StrCat("/sdp.proto.", service, type == 's' ? "/Push" : "/WatchStatus");
    }
    return roles;
  }

  // `files`: TLS, with what a member has; `theirs`: of another cluster.
  std::vector<Attack> Attacks(const TlsFiles* files, const TlsFiles* theirs,
                              const std::string& token);

  void Assail(const std::vector<Role>& roles, Progress* progress, size_t until, Attack* attack);
  void ExpectHarmless(const std::string& run, const std::vector<Attack>& attacks) const;
  void AttackedRunEndsAsIfAlone(std::vector<Attack> attacks);

  RandomStream random_{1, 0};
};

std::vector<Attack> HostileRunTest::Attacks(const TlsFiles* files, const TlsFiles* theirs,
                                            const std::string& token) {
  const auto plain = [](const Role& role) {
    return std::make_unique<Http2Peer>(role.address, nullptr, Speaks::kNothing);
  };
  const auto member = [files](const Role& role) {
    return std::make_unique<Http2Peer>(role.address, files);
  };
  const std::string secret = token.empty() ? "" : Header("authorization", "Bearer " + token);
  const auto call = [secret](const std::string& method, const std::string& more = "") {
    return CallHeaders(method) + secret + more;
  };
  const auto noise = [this](int most) {
    std::string bytes(static_cast<size_t>(random_.Below(most)) + 30, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random_.Below(256));
    return bytes;
  };

  std::vector<Attack> attacks = {
      {"random bytes", 50,
       [=](const Role& role, Crowd& crowd) { crowd.Add(plain(role)).Send(noise(4096)); }},
      {"silence, by the hundred", 200,
       [=](const Role& role, Crowd& crowd) {
         for (int i = crowd.connections() < 100 ? 100 : 2; i > 0; --i) crowd.Add(plain(role));
       }},
      {"HTTP/2's preface, then nothing", 50,
       [=](const Role& role, Crowd& crowd) { crowd.Add(member(role)); }},
      {"the preface, then random bytes", 20,
       [=](const Role& role, Crowd& crowd) { crowd.Add(member(role)).Send(noise(65536)); }},
      {"half a message of 4 GiB, or 16 MiB", 50,
       [=](const Role& role, Crowd& crowd) {
         crowd.Add(member(role))
             .Send(Headers(1, call(role.stream)) + Message(1, "half", 0xffffffff) +
                   Headers(3, call(role.unary)) + Message(3, std::string(99999, 'h'), 16 << 20));
       }},
      {"messages of 15 MiB", 1,
       [=](const Role& role, Crowd& crowd) {
         crowd.Add(member(role))
             .Send(Headers(1, call(role.unary)) + Message(1, std::string(15 << 20, '\xff')));
       },
       absl::Milliseconds(300)},
      {"headers without end", 2,
       [=](const Role& role, Crowd& crowd) {
         Http2Peer& peer = crowd.Add(member(role));
         bool open =
             peer.Send(HeadersBegin(1, call(role.unary)) + Continuation(1, EndlessHeader()));
         for (int i = 0; i < 256 && open; ++i)
           open = peer.Send(Continuation(1, std::string(16384, 'v')));
       },
       absl::Milliseconds(100)},
      {"calls by the hundred, not finished", 10,
       [=](const Role& role, Crowd& crowd) {
         Http2Peer& peer = crowd.Add(member(role));
         // Each second one asks for more than it may have, and is ended.
         const uint32_t calls = kMaxCallsPerConnection * (1 + crowd.connections() % 2 * 9);
         std::string all;
         for (uint32_t i = 0; i < calls; ++i)
           absl::StrAppend(&all, Headers(2 * i + 1, call(role.unary)));
         peer.Send(all);
       },
       absl::Milliseconds(100)},
      {"calls begun and taken back", 2,
       [=](const Role& role, Crowd& crowd) {
         Http2Peer& peer = crowd.Add(member(role));
         std::string all;
         for (uint32_t i = 0; i < 300; ++i)
           absl::StrAppend(&all, Headers(2 * i + 1, call(role.unary)), Reset(2 * i + 1));
         peer.Send(all);
       },
       absl::Milliseconds(200)},
      {"streams of strangers, of garbage", 20,
       [=, this](const Role& role, Crowd& crowd) {
         std::string all;
         for (uint32_t i = 0; i < 20; ++i) {
           const StreamName name = {Generation(1), Incarnation(1 + i % 3),
                                    static_cast<uint64_t>(random_.Below(1 << 30))};
           absl::StrAppend(
               &all,
               Headers(2 * i + 1,
                       call(role.stream,
                            i % 2 == 0 ? "" : Header(kStreamNameKey, StreamNameText(name)))),
               Message(2 * i + 1, noise(2000)));
         }
         crowd.Add(member(role)).Send(all);
       }},
      {"frames of no member, for no fragment", 20, [=](const Role& role, Crowd& crowd) {
         std::string all;
         for (uint32_t i = 0; i < 20; ++i) {
           PushKey key;
           key.generation = Generation(1 + i % 2 * 98);  // the run's, and another one
           key.worker = Incarnation(1 + i % 3);          // members, but not by their number
           key.fragment = FragmentId(1 << 30);
           key.terms = 15;
           FrameHeader header = PushHeader(key, 1 << 20, WireType::kF32);
           header.payload_bytes = 4000;
           const FrameHeaderBytes bytes = EncodeHeader(header);
           absl::StrAppend(
               &all,
               Headers(2 * i + 1,
                       call(role.stream, Header(kStreamNameKey,
                                                StreamNameText({key.generation, key.worker, 1})))),
               Message(2 * i + 1, std::string(bytes.data(), bytes.size()) + noise(4000)));
         }
         crowd.Add(member(role)).Send(all);
       }}};
  if (theirs != nullptr) {
    attacks.push_back({"half a TLS handshake", 100, [=](const Role& role, Crowd& crowd) {
                         const std::string hello("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
                                                 11);
                         for (int i = 0; i < 5; ++i) crowd.Add(plain(role)).Send(hello);
                       }});
    attacks.push_back({"certificates of another authority", 10,
                       [=](const Role& role, Crowd& crowd) {
                         crowd.Add(std::make_unique<Http2Peer>(role.address, theirs));
                       },
                       absl::Milliseconds(50)});
  }
  // Last: it uses up the pace at which connections are taken.
  attacks.push_back({"connections by the thousand", 2000, [=](const Role& role, Crowd& crowd) {
                       for (int i = 0; i < 50; ++i) crowd.Add(plain(role));
                     }});
  return attacks;
}

// Bursts on all roles until the run has made `until` steps.
void HostileRunTest::Assail(const std::vector<Role>& roles, Progress* progress, size_t until,
                            Attack* attack) {
  std::map<std::string, int64_t> memory, descriptors, accepted;
  std::deque<Crowd> crowds;
  for (const Role& role : roles) {
    role.ForgetPeak();
    memory[role.name] = role.MemoryBytes("VmRSS");
    descriptors[role.name] = role.Descriptors();
    crowds.emplace_back(attack->connections);
  }
  const absl::Time begin = absl::Now();
  const double cpu_begin = CpuSec();
  const size_t first = progress->Steps();
  do {
    for (size_t i = 0; i < roles.size(); ++i) {
      attack->burst(roles[i], crowds[i]);
      int64_t& most = accepted[roles[i].name];
      most = std::max(most, roles[i].Descriptors() - descriptors[roles[i].name]);
    }
    absl::SleepFor(attack->pause);
  } while (progress->Steps() < until && absl::Now() < begin + kDeadline);
  attack->stretches.emplace_back(first, progress->Steps());
  EXPECT_GE(progress->Steps(), until) << attack->name << ": the run stands still";
  attack->sec += absl::ToDoubleSeconds(absl::Now() - begin);
  attack->cpu_sec += CpuSec() - cpu_begin;
  for (size_t i = 0; i < roles.size(); ++i) {
    crowds[i].DropAll();
    attack->made += crowds[i].connections();
    attack->noticed += crowds[i].noticed();
    attack->bytes += crowds[i].bytes();
    attack->accepted += accepted[roles[i].name];
    const int64_t growth = roles[i].MemoryBytes("VmHWM") - memory[roles[i].name];
    attack->growth = std::max(attack->growth, growth);
    EXPECT_LT(growth, kMostGrowth) << roles[i].name << ", " << attack->name;
  }
}

void HostileRunTest::ExpectHarmless(const std::string& run,
                                    const std::vector<Attack>& attacks) const {
  std::vector<double> seconds, quiet;
  for (const Json& line : Metrics(run)) {
    if (line.contains("elapsed_sec")) seconds.push_back(line["elapsed_sec"]);
  }
  // The steps under way when a stretch begins and ends are of neither kind.
  size_t quiet_from = 10;
  for (int pass = 0; pass < kPasses; ++pass) {
    for (const Attack& attack : attacks) {
      const auto [from, to] = attack.stretches[static_cast<size_t>(pass)];
      for (size_t step = quiet_from + 2; step < from && step < seconds.size(); ++step)
        quiet.push_back(seconds[step]);
      quiet_from = to;
    }
  }
  const double quiet_median = Quantile(quiet, 0.5);
  std::printf("%-38s %9s %9s %9s %11s %9s %9s %9s\n", run.c_str(), "median ms", "p90 ms", "most ms",
              "connections", "MB sent", "core used", "MiB grown");
  std::printf("%-38s %9.1f %9.1f %9.1f\n", "quiet", 1e3 * quiet_median, 1e3 * Quantile(quiet, 0.9),
              1e3 * Quantile(quiet, 1));
  for (const Attack& attack : attacks) {
    std::vector<double> taken;
    for (const auto& [from, to] : attack.stretches) {
      for (size_t step = from + 2; step <= to && step < seconds.size(); ++step)
        taken.push_back(seconds[step]);
    }
    const double median = Quantile(taken, 0.5), longest = Quantile(taken, 1);
    std::printf("%-38s %9.1f %9.1f %9.1f %11d %9.1f %9.2f %9.1f\n", attack.name.c_str(),
                1e3 * median, 1e3 * Quantile(taken, 0.9), 1e3 * longest, attack.made,
                1e-6 * static_cast<double>(attack.bytes), attack.cpu_sec / attack.sec,
                static_cast<double>(attack.growth) / (1 << 20));
    EXPECT_LT(median, kSlower * quiet_median + kPauseSec) << attack.name;
    EXPECT_LT(longest, kLongestSec) << attack.name;
    EXPECT_GT(attack.made, 0) << attack.name;
    EXPECT_GT(attack.noticed + attack.accepted, 0) << attack.name << " reached no server";
  }
  std::fflush(stdout);
}

void HostileRunTest::AttackedRunEndsAsIfAlone(std::vector<Attack> attacks) {
  Outcome attacked;
  std::thread run([&] { attacked = RunByHand("attacked"); });
  Progress progress(RunDir("attacked"));
  const bool up = progress.Await(5);
  const std::vector<Role> roles = Roles("attacked");
  EXPECT_TRUE(up);
  EXPECT_EQ(roles.size(), 5u);
  bool goes_on = up && roles.size() == 5;
  for (int pass = 0; pass < kPasses; ++pass) {
    for (Attack& attack : attacks) {
      goes_on = goes_on && progress.Await(progress.Steps() + kStretch);
      if (goes_on) Assail(roles, &progress, progress.Steps() + kStretch, &attack);
    }
  }
  if (!roles.empty() && roles[0].pid > 0) kill(roles[0].pid, SIGINT);  // it stops the run
  run.join();
  ASSERT_TRUE(goes_on) << attacked.output;
  EXPECT_THAT(attacked.output, ::testing::HasSubstr("exit=130"));
  ExpectHarmless("attacked", attacks);
  const std::string steps = absl::StrCat(Metrics("attacked").size() - 1);
  ASSERT_EQ(Train("alone", Options("alone", steps)).exit_status, 0);
  EXPECT_EQ(StateHash("attacked"), StateHash("alone"));
  EXPECT_NE(StateHash("alone"), "");
}

TEST_F(HostileRunTest, InPlaintext_AttackedRunEndsAsIfAlone) {
  AttackedRunEndsAsIfAlone(Attacks(nullptr, nullptr, ""));
}

TEST_F(HostileRunTest, WithTls_AttackedRunEndsAsIfAlone) {
  const auto certs = [this](const std::string& to) {
    return Shell(absl::StrCat(Program("sdp"), " certs --out ", (folder_ / to).string()));
  };
  const Outcome made = certs("certs");
  ASSERT_EQ(made.exit_status, 0) << made.output;
  ASSERT_EQ(certs("theirs").exit_status, 0);
  std::ofstream(Config(), std::ios::app) << made.output.substr(made.output.find("[security]"));
  std::string token;
  std::ifstream(folder_ / "certs/token") >> token;
  const TlsFiles files = {(folder_ / "certs/sdp.crt").string(),
                          (folder_ / "certs/sdp.key").string()};
  const TlsFiles theirs = {(folder_ / "theirs/sdp.crt").string(),
                           (folder_ / "theirs/sdp.key").string()};
  AttackedRunEndsAsIfAlone(Attacks(&files, &theirs, token));
}

}  // namespace
}  // namespace sdp

// Links between the hosts of a run that are cut, one way or both, slow, and lossy while it trains:
// it goes on within its deadlines, nothing needs a restart by hand, the audit finds each sample
// where it was promised, and where no worker is excluded the bits are those of the undisturbed run.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/faults/lab_fixture.h"

namespace sdp {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// What a busy machine may add to a lease, and to what is done at once.
constexpr absl::Duration kLease = absl::Seconds(20), kMargin = absl::Seconds(15);
// gRPC hears of a cut connection when a ping is not answered.
constexpr absl::Duration kKeepalive = absl::Seconds(15);
// After which a worker gives a shard up.
constexpr absl::Duration kUnreachable = absl::Seconds(30);
constexpr absl::Duration kEnd = absl::Seconds(90);

uint64_t Number(const char* name, uint64_t fallback) {
  const char* const given = std::getenv(name);
  return given == nullptr ? fallback : std::strtoull(given, nullptr, 10);
}

// Of a lab of seven hosts.
std::string RandomLinks(RandomStream& random) {
  const uint64_t one = 1 + random.Below(7), other = 1 + (one + random.Below(6)) % 7;
  const std::string way = random.Below(2) == 0 ? " " : " to ";
  const uint64_t kind = random.Below(4), large = random.Below(2000), small = random.Below(5);
  const std::string all = absl::StrCat("h", one, way, "all");
  switch (kind) {
    case 0:
      return absl::StrCat("cut ", all);
    case 1:
      return absl::StrCat("cut h", one, way, "h", other);
    case 2:
      return absl::StrCat("set ", all, " delay=", large / 10, "ms loss=", small, "%");
    default:
      return absl::StrCat("set ", all, " rate=", 200 + large, "kbit jitter=", small, "ms");
  }
}

class NetworkFaultsTest : public LabFixture {
 protected:
  const std::vector<std::string> endless_ = {"train.steps=1000000", "train.eval_every=0",
                                             "checkpoint.every=0"};
  const std::vector<std::string> short_ = {"train.steps=80", "train.eval_every=30",
                                           "checkpoint.every=20"};

  // Of short_, once for all tests.
  std::string UndisturbedHash() const {
    static const std::string hash = [this] {
      std::string settings;
      for (const std::string& setting : short_) absl::StrAppend(&settings, " --set ", setting);
      EXPECT_EQ(Train("undisturbed", settings).exit_status, 0);
      return StateHash("undisturbed");
    }();
    return hash;
  }
  bool Excluded(const std::string& worker) { return !Events("exclude", worker).empty(); }
};

// One hears and is heard by nobody, one is not heard, one does not hear; they stay so for longer
// than a worker tries to reach a shard. The fourth cannot reach one of the shards: its heartbeats
// say that it lives, so it must see by itself that it is in the others' way.
TEST_F(NetworkFaultsTest, WorkersThatAreCutOff_AreExcluded_AndComeBackByThemselves) {
  Begin({.shards = 2, .workers = 6}, endless_);
  Links(absl::StrCat("cut ", HostOf("worker-0"), " all"));
  Links(absl::StrCat("cut ", HostOf("worker-1"), " to all"));
  for (const char* other : {"coordinator", "shard-0", "shard-1"})
    Links(absl::StrCat("cut ", HostOf(other), " to ", HostOf("worker-2")));
  Links(absl::StrCat("cut ", HostOf("worker-3"), " ", HostOf("shard-1")));
  Await("both directions: excluded", kLease + kMargin, [&] { return Excluded("worker-0"); });
  Await("is not heard: excluded", kMargin, [&] { return Excluded("worker-1"); });
  Await("does not hear: excluded", kKeepalive + kMargin, [&] { return Excluded("worker-2"); });
  Await("does not reach a shard: excluded", kKeepalive + kUnreachable,
        [&] { return Excluded("worker-3"); });
  EXPECT_THAT(Events("exclude", "worker-3")[0].value("reason", ""),
              HasSubstr("another incarnation"));
  AwaitMoreLines(10, kMargin);
  EXPECT_EQ(Workers(), 2);
  Await("the others look for the shards again", kUnreachable, [&] {
    return Shell("grep -l 'registering again' worker-0.log worker-1.log worker-2.log | wc -l")
               .output == "3\n";
  });
  Links("heal");
  Await("all train again", kMargin, [&] { return Workers() == 6; });
  ExpectStopInOrder(kEnd);
}

TEST_F(NetworkFaultsTest, AShardThatIsCutOff_TheRunGoesBack_WaitsForIt_AndHasTheSameBits) {
  const std::string hash = UndisturbedHash();
  Begin({.shards = 2, .workers = 4}, short_);
  Await("a checkpoint", kMargin, [&] { return !Events("checkpoint").empty(); });
  Links(absl::StrCat("cut ", HostOf("shard-1"), " all"));
  Await("the run goes back", kLease + kMargin, [&] { return !Events("go_back").empty(); });
  Links("heal");
  AwaitMoreLines(1, absl::Seconds(30));
  ExpectEndInOrder(kEnd);
  EXPECT_THAT(Events("go_back"), SizeIs(1));
  EXPECT_THAT(Events("exclude"), IsEmpty());
  EXPECT_EQ(StateHash("run"), hash);
}

// Its leases expire all at once: it takes itself for the one that is cut off.
TEST_F(NetworkFaultsTest, ACoordinatorThatIsCutOff_LosesNobody) {
  const std::string hash = UndisturbedHash();
  Begin({.shards = 2, .workers = 4}, short_);
  const absl::Time cut = absl::Now();
  Links("cut h1 all");
  Await("longer than a lease", 2 * kLease, [&] { return absl::Now() - cut > 3 * kLease / 2; });
  Links("heal");
  AwaitMoreLines(1, absl::Seconds(30));
  ExpectEndInOrder(kEnd);
  EXPECT_THAT(Events("go_back"), IsEmpty());
  EXPECT_THAT(Events("exclude"), IsEmpty());
  EXPECT_EQ(StateHash("run"), hash);
}

// Far hosts, lost packets, a thin line to one worker: the run only takes longer.
TEST_F(NetworkFaultsTest, BadLinks_ChangeNoBit) {
  const std::string hash = UndisturbedHash();
  Begin({.shards = 2, .workers = 4}, short_);
  for (int host = 1; host <= 7; ++host)
    Links(absl::StrCat("set h", host, " all delay=10ms jitter=5ms loss=1.5%"));
  Links(absl::StrCat("set ", HostOf("worker-0"), " all rate=1mbit"));
  AwaitMoreLines(10, kEnd);
  ExpectEndInOrder(2 * kEnd);
  EXPECT_THAT(Events("go_back"), IsEmpty());
  EXPECT_THAT(Events("exclude"), IsEmpty());
  EXPECT_EQ(StateHash("run"), hash);
}

// What happens to the links follows from the seed.
TEST_F(NetworkFaultsTest, RandomSchedules_EndInOrder) {
  const uint64_t count = Number("SDP_NETWORK_SCHEDULES", 0);
  if (count == 0) GTEST_SKIP() << "SDP_NETWORK_SCHEDULES=N: so many, of about a minute each";
  const std::string hash = UndisturbedHash();
  const uint64_t first = Number("SDP_FIRST_NETWORK_SCHEDULE", 0);
  for (uint64_t seed = first; seed < first + count; ++seed) {
    RandomStream random(seed, 0xFB);
    Begin({.shards = 2, .workers = 4}, short_);
    for (uint64_t events = 1 + random.Below(3); events > 0; --events) {
      const std::string what = RandomLinks(random);
      const absl::Duration hold = absl::Seconds(1 + random.Below(35));
      std::printf("%s for %s\n", what.c_str(), absl::FormatDuration(hold).c_str());
      Links(what);
      const absl::Time end = absl::Now() + hold;
      Await("that long", 2 * hold, [&] { return absl::Now() > end || !Events("end").empty(); });
      Links("reset");
      if (!Events("end").empty()) break;
      AwaitMoreLines(5, kEnd);
    }
    ExpectEndInOrder(kEnd);
    if (Events("exclude").empty()) {
      EXPECT_EQ(StateHash("run"), hash);
    }
    ASSERT_FALSE(HasFailure()) << "again: SDP_FIRST_NETWORK_SCHEDULE=" << seed
                               << " SDP_NETWORK_SCHEDULES=1";
    Clear();
  }
}

}  // namespace
}  // namespace sdp

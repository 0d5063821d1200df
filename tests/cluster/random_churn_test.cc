// Thousands of schedules: anything happens to any process at any moment.
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "common/base/random.h"
#include "gtest/gtest.h"
#include "tests/base/sanitized.h"
#include "tests/cluster/churn_run.h"
#include "tests/cluster/sim_audit.h"
#include "tests/cluster/sim_cluster.h"

namespace sdp {
namespace {

using What = SimCluster::Change::What;

absl::Duration Ms(int64_t ms) { return absl::Milliseconds(ms); }

ChurnCase RandomCase(uint64_t seed) {
  RandomStream random(seed, 0xC4);
  ChurnCase c;
  c.schedule = seed;
  c.workers = 2 + static_cast<int>(random.Below(4));
  c.shards = 1 + static_cast<int>(random.Below(3));
  c.steps = 8 + static_cast<int64_t>(random.Below(12));
  c.global_batch = 1 + static_cast<int64_t>(random.Below(12));
  c.eval_every = static_cast<int64_t>(random.Below(4));
  c.rotate_every = static_cast<int64_t>(random.Below(3));
  c.checkpoint_every = static_cast<int64_t>(random.Below(4));
  c.diagnostics_every = static_cast<int64_t>(seed % 4);
  c.clip_norm = random.Below(2) == 0 ? 0 : 0.5;
  c.masking = random.Below(3) == 0 ? Masking::kBackward : Masking::kForward;
  c.min_workers = 1 + static_cast<int>(random.Below(2));
  c.snapshot_bytes = std::vector<int64_t>{0, 500, 1 << 20}[random.Below(3)];
  // Fewer fragments are fewer messages: more schedules in the same time.
  c.fragment_elements = std::vector<int64_t>{50, 120, 300, 1000}[seed / 4 % 4];
  const auto changes = static_cast<int>(random.Below(8));
  for (int i = 0; i < changes; ++i) {
    SimCluster::Change change;
    change.at = Ms(static_cast<int64_t>(random.Below(3000)));
    change.what = static_cast<What>(random.Below(9));
    change.number = static_cast<int>(random.Below(static_cast<uint64_t>(c.workers) + 2));
    change.duration = Ms(static_cast<int64_t>(random.Below(1500)));
    c.changes.push_back(change);
  }
  if (c.clip_norm > 0 && random.Below(2) == 0)
    c.bad_sample = static_cast<int64_t>(random.Below(ChurnRun::kSamples));
  for (int worker = 0; worker < 2; ++worker)  // in the end there are enough
    c.changes.push_back({absl::Seconds(6), What::kStart, 20 + worker, {}});
  return c;
}

// How many random schedules, and the first one's seed.
struct Seeds {
  uint64_t first = 0, count = 0;
};

// More of them: SDP_SCHEDULES=100000. A seed that fails is replayed with SDP_FIRST_SCHEDULE=SEED
// SDP_SCHEDULES=1.
Seeds RandomSeeds(uint64_t count) {
  const auto number = [](const char* name, uint64_t fallback) {
    const char* const given = std::getenv(name);
    return given == nullptr ? fallback : std::strtoull(given, nullptr, 10);
  };
  return {number("SDP_FIRST_SCHEDULE", 0), number("SDP_SCHEDULES", count)};
}

// Only servers and connections fail: the bits are those of the undisturbed run.
TEST(RandomChurnTest, RandomLossesOfServers_ChangeNoBit) {
  const uint64_t cases = kSanitized ? 10 : 50;
  int times_back = 0;
  for (uint64_t seed = 0; seed < cases; ++seed) {
    ChurnCase c = RandomCase(seed);
    c.changes.clear();
    const ChurnRun undisturbed(c);
    RandomStream random(seed, 0x5C);
    for (uint64_t i = 0; i <= random.Below(3); ++i) {
      c.changes.push_back(
          {Ms(static_cast<int64_t>(random.Below(1500))),
           std::vector<What>{What::kKillShard, What::kFreezeShard, What::kKillCoordinator,
                             What::kBreakStreams, What::kDrainShard}[random.Below(5)],
           static_cast<int>(random.Below(3)), Ms(static_cast<int64_t>(random.Below(1200)))});
    }
    const ChurnRun run(c);
    run.Check();
    times_back += run.cluster().times_back();
    ASSERT_TRUE(run.HasValuesOf(undisturbed)) << "seed " << seed;
    ASSERT_FALSE(HasFailure()) << "seed " << seed;
  }
  EXPECT_GT(times_back, static_cast<int>(cases) / 4);
}

TEST(RandomChurnTest, RandomChanges_EndAndAgreeWithTheMethod) {
  const auto [first, count] = RandomSeeds(kSanitized ? 40 : 5000);
  int half_dense = 0;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    const ChurnRun run(RandomCase(seed));
    run.Check();
    half_dense += run.HalfDense();
    if (HasFailure()) {
      for (const std::string& line : run.cluster().log()) std::cerr << line << "\n";
      FAIL() << "SDP_FIRST_SCHEDULE=" << seed << " SDP_SCHEDULES=1";
    }
  }
  if (count >= 40) {
    EXPECT_GT(half_dense, 0);
  }
}

// Of 100,000 schedules, those that a bug has failed: a member that had left and come back before
// the second of two coordinators was lost; a shard's successor, refused since its predecessor had
// got a new lease; a version that was released while a member still evaluated it; samples of a
// committed step that were dealt again; a worker that evaluated for all who were lost, and repeated
// only the last eight parts; a view that was made, and its coordinator lost before it was used.
TEST(RandomChurnTest, SchedulesThatFailedOnce) {
  for (const uint64_t seed :
       {8646, 20693, 26215, 44190, 58217, 61686, 85289, 83404, 59241, 62630}) {
    ChurnRun(RandomCase(seed)).Check();
    ASSERT_FALSE(HasFailure()) << "seed " << seed;
  }
}

// The audit's view of a run that is killed as a whole, again and again, while workers come and go.
TEST(RandomChurnTest, KilledAmidChangesAndResumed_TheRecordsAddUp) {
  const uint64_t cases = kSanitized ? 20 : 60;
  int64_t undone = 0, again = 0;
  for (uint64_t seed = 0; seed < cases; ++seed) {
    RandomStream random(seed, 0xC5);
    ChurnCase c = RandomCase(seed);
    c.checkpoint_every = 1 + static_cast<int64_t>(random.Below(3));
    SimDisk disk;
    c.disk = &disk;
    absl::Status end = absl::AbortedError("not begun");
    for (int64_t generation = 1; absl::IsAborted(end); ++generation) {
      c.schedule = seed * 100 + static_cast<uint64_t>(generation);
      c.start = disk.Newest(disk.NextGeneration());
      c.max_events = generation > 3 ? 0 : 1 + static_cast<int64_t>(random.Below(8000));
      end = ChurnRun(c).status();
    }
    ASSERT_EQ(end, absl::OkStatus()) << "seed " << seed;
    const audit::Report report = AuditOf(disk);
    EXPECT_EQ(report.steps, c.steps) << "seed " << seed;
    EXPECT_EQ(report.used_once + report.used_again + report.waiting, report.dealt);
    undone += report.undone;
    again += report.used_again;
    if (HasFailure()) FAIL() << "seed " << seed;
  }
  EXPECT_GT(undone, 0);
  EXPECT_GT(again, 0);
}

}  // namespace
}  // namespace sdp

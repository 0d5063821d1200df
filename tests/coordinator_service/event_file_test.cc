#include "server/coordinator/service/event_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/cluster_process/temp_folder.h"
#include "tests/places/places.h"

namespace sdp {
namespace {

using ::testing::Contains;
using ::testing::FloatEq;
using ::testing::HasSubstr;
using ::testing::Key;
using ::testing::Not;

StepMetrics TrainedStep(Step step) {
  StepMetrics metrics;
  metrics.step = step;
  metrics.loss = 2.5 - 0.5 * static_cast<double>(step);
  metrics.samples = 8;
  metrics.elapsed = absl::Milliseconds(250);
  metrics.max_worker_allocated_bytes = 3 << 20;
  return metrics;
}

double Value(const CurvePoints& points, const std::string& tag) {
  for (const auto& [name, value] : points) {
    if (name == tag) return value;
  }
  return -1;
}

TEST(EventFileTest, FolderThatCannotBeMade_IsNamed) {
  TempFolder folder;
  WriteAll(folder / "file", "");
  const auto events = EventFile::Create(folder / "file", 0, absl::UnixEpoch());
  EXPECT_FALSE(events.ok());
  EXPECT_THAT(std::string(events.status().message()), HasSubstr(folder / "file"));
}

TEST(EventFileTest, Curves_AreWhatTheStepHas) {
  const CurvePoints points = CurvesOf(TrainedStep(1));
  EXPECT_EQ(Value(points, "loss/train"), 2);
  EXPECT_EQ(Value(points, "throughput/samples_per_sec"), 32);
  EXPECT_EQ(Value(points, "memory/worst_worker_mib"), 3);
  EXPECT_THAT(points, Not(Contains(Key("throughput/tokens_per_sec"))));
  EXPECT_THAT(points, Not(Contains(Key("loss/full"))));

  StepMetrics closing;
  closing.full_loss = 1.5;
  EXPECT_THAT(CurvesOf(closing), ::testing::ElementsAre(::testing::Pair("loss/full", 1.5)));
}

// By a reader in another language, which shares nothing with the writer; with tensorboard installed
// by that too.
TEST(EventFileTest, AnotherReader_ReadsIt) {
  if (std::system("python3 -c '' 2> /dev/null") != 0) GTEST_SKIP() << "no python3 to read with";
  TempFolder folder;
  std::string path;
  {
    const auto events =
        EventFile::Create(folder / "tensorboard", 4, absl::FromUnixSeconds(1700000000));
    ASSERT_TRUE(events.ok()) << events.status();
    path = (*events)->path();
    EXPECT_THAT(path, HasSubstr("/events.out.tfevents.1700000000."));
    for (const Step step : {4, 5, 3})  // a lost shard took it back before the third
      ASSERT_TRUE((*events)
                      ->Append(step, CurvesOf(TrainedStep(step)), absl::FromUnixSeconds(1700000001))
                      .ok());
  }
  const std::string script = SourceFolder() / "tests" / "coordinator_service" / "read_events.py";
  ASSERT_EQ(
      std::system(absl::StrCat("python3 ", script, " ", path, " > ", folder / "read").c_str()), 0);
  std::ifstream file(folder / "read");
  const nlohmann::json read = nlohmann::json::parse(file);
  ASSERT_EQ(read.size(), 6u) << read;
  EXPECT_EQ(read[0]["version"], "brain.Event:2");
  EXPECT_EQ(read[1]["start"], true);
  EXPECT_EQ(read[1]["step"], 4);
  EXPECT_EQ(read[2]["step"], 4);
  EXPECT_EQ(read[2]["values"]["loss/train"], 0.5);
  EXPECT_EQ(read[3]["step"], 5);
  EXPECT_EQ(read[4]["start"], true);  // steps from 3 on are void
  EXPECT_EQ(read[4]["step"], 3);
  EXPECT_THAT(read[5]["values"]["time/step_sec"].get<float>(), FloatEq(0.25));

  // One damaged byte is seen, so the reader does check.
  std::fstream damaged(path, std::ios::in | std::ios::out | std::ios::binary);
  damaged.seekp(-6, std::ios::end);
  damaged.put('\x55');
  damaged.close();
  EXPECT_NE(std::system(absl::StrCat("python3 ", script, " ", path, " > /dev/null 2>&1").c_str()),
            0);
}

}  // namespace
}  // namespace sdp

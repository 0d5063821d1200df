// Reads every #include line of the tree and fails on one that the table in include_rules.cc
// forbids.
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/places/places.h"
#include "tests/structure/include_rules.h"

namespace sdp {
namespace {

using ::testing::HasSubstr;

// All C++ and CUDA sources under the product folders, as paths from the root.
std::vector<std::string> ProductSources() {
  const std::filesystem::path root = SourceFolder();
  std::vector<std::string> files;
  for (const char* top : {"proto", "common", "server", "worker", "deploy"}) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(root / top)) {
      const std::string extension = entry.path().extension();
      if (extension == ".h" || extension == ".cc" || extension == ".cu" || extension == ".cuh") {
        files.push_back(entry.path().lexically_relative(root));
      }
    }
  }
  return files;
}

TEST(LayeringTest, TheTree_HasNoForbiddenInclude) {
  const std::vector<std::string> files = ProductSources();
  ASSERT_GT(files.size(), 20u) << "the sources were not found under " << SourceFolder();
  for (const std::string& file : files) {
    std::ifstream source(SourceFolder() / file);
    std::set<std::string>
        reasons;  // Each once per file: a folder without a rule has the same for all lines.
    std::string line;
    while (std::getline(source, line)) {
      const auto included = IncludedPath(line);
      const auto reason = included ? WhyForbidden(file, *included) : std::nullopt;
      if (reason && reasons.insert(*reason).second) ADD_FAILURE() << file << ": " << *reason;
    }
  }
}

TEST(LayeringTest, EveryRule_IsForAFolderThatExists) {
  for (const std::string& folder : FoldersWithRules()) {
    EXPECT_TRUE(std::filesystem::is_directory(SourceFolder() / folder)) << folder;
  }
}

TEST(IncludedPathTest, FindsThePathInItsForms) {
  EXPECT_EQ(IncludedPath("#include \"common/base/ids.h\"  // Why."), "common/base/ids.h");
  EXPECT_EQ(IncludedPath("#include <thread>"), "thread");
  EXPECT_EQ(IncludedPath("  #  include<torch/torch.h>"), "torch/torch.h");
  EXPECT_EQ(IncludedPath("// #include <thread>"), std::nullopt);
  EXPECT_EQ(IncludedPath("#if defined(__linux__)"), std::nullopt);
}

struct Line {
  const char* file;
  const char* included;
};

TEST(WhyForbiddenTest, CatchesWhatTheRulesForbid) {
  for (const Line& line : std::vector<Line>{
           {"common/rpc/server.cc", "server/shard/logic/shard.h"},
           {"common/config/config.cc", "worker/logic/worker.h"},
           {"common/data/init_file.cc", "tests/base/fake.h"},
           {"common/base/hash.cc", "grpcpp/grpcpp.h"},
           {"common/plan/plan.cc", "proto/config.pb.h"},
           {"common/model/layout.h", "filesystem"},
           {"common/data/sample_order.cc", "common/data/safetensors.h"},
           {"server/shard/logic/shard.cc", "proto/coordinator.pb.h"},
           {"server/shard/logic/shard.cc", "google/protobuf/message.h"},
           {"server/shard/logic/shard.h", "grpcpp/support/status.h"},
           {"server/coordinator/logic/coordinator.cc", "thread"},
           {"server/coordinator/logic/coordinator.cc", "server/coordinator/service/store.h"},
           {"server/shard/logic/shard.h", "common/config/config.h"},
           {"server/shard/service/service.cc", "server/coordinator/logic/coordinator.h"},
           {"server/coordinator/service/service.cc", "server/shard/logic/shard.h"},
           {"server/shard/shard_main.cc", "torch/torch.h"},
           {"server/shard/shard_main.cc", "worker/logic/worker.h"},
           {"server/coordinator/service/service.cc", "deploy/command/train.h"},
           {"worker/logic/worker.cc", "ATen/ATen.h"},
           {"worker/logic/worker.h", "mutex"},
           {"worker/data/text_dataset.cc", "torch/torch.h"},
           {"worker/model/llama.cc", "grpcpp/grpcpp.h"},
           {"worker/service/streams.cc", "server/shard/logic/shard.h"},
           {"worker/worker_main.cc", "deploy/command/train.h"},
           {"deploy/command/train.cc", "worker/logic/worker.h"},
           {"deploy/command/train.cc", "server/shard/logic/shard.h"},
           {"deploy/command/train.cc", "torch/torch.h"},
       }) {
    EXPECT_TRUE(WhyForbidden(line.file, line.included))
        << line.file << " includes " << line.included;
  }
}

TEST(WhyForbiddenTest, AllowsWhatTheRulesAllow) {
  for (const Line& line : std::vector<Line>{
           {"common/base/ids.h", "cstdint"},
           {"common/base/hash.cc", "common/base/hash.h"},
           {"common/plan/plan.cc", "nlohmann/json.hpp"},
           {"common/rpc/channel.h", "grpcpp/channel.h"},
           {"common/data/sample_order.cc", "common/data/sample_order.h"},
           {"server/shard/logic/shard.cc", "common/model/layout.h"},
           {"server/shard/service/service.cc", "server/shard/logic/shard.h"},
           {"worker/logic/worker.h", "common/data/sample_order.h"},
           {"worker/model/llama.cc", "ATen/ATen.h"},
           {"worker/worker_main.cc", "worker/service/streams.h"},
           {"deploy/command/train.cc", "proto/config.pb.h"},
           {"tests/worker_model/llama_test.cc", "server/shard/logic/shard.h"},
       }) {
    EXPECT_EQ(WhyForbidden(line.file, line.included), std::nullopt)
        << line.file << " includes " << line.included;
  }
}

TEST(WhyForbiddenTest, AFolderWithoutARule_IsNamed) {
  EXPECT_THAT(WhyForbidden("common/new_folder/a.cc", "vector").value_or(""),
              HasSubstr("common/new_folder/a.cc"));
}

}  // namespace
}  // namespace sdp

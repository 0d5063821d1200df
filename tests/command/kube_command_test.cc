#include "deploy/command/kube_command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/config/config.h"
#include "common/run/run_setup.h"
#include "deploy/command/kube_sizes.h"
#include "deploy/command/plan_command.h"
#include "tests/cluster_process/temp_folder.h"
#include "tests/places/places.h"

namespace sdp {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

// A plan in which each worker pulls and pushes so many bytes in a step.
PlanReport Traffic(std::initializer_list<std::pair<int64_t, int64_t>> workers) {
  PlanReport report;
  for (const auto& [pulled, pushed] : workers) {
    PlanReport::Worker worker;
    worker.pull_bytes = pulled;
    worker.push_bytes = pushed;
    report.workers.push_back(worker);
  }
  return report;
}

TEST(KubeSizesTest, ShardsForLinks_AsFewAsAreNoSlowerThanTheWorkers) {
  const PlanReport report = Traffic({{100, 80}, {60, 100}, {90, 90}});
  // Of equal links: 270 bytes pushed or 250 pulled while the busiest worker moves 100.
  EXPECT_EQ(ShardsForLinks(report, 1e6, 1e6, 50), 3);
  EXPECT_EQ(ShardsForLinks(report, 1e6, 2e6, 50), 2);
  EXPECT_EQ(ShardsForLinks(report, 1e6, 10e6, 50), 1);
  EXPECT_EQ(ShardsForLinks(report, 10e6, 1e6, 50), 27);
  EXPECT_EQ(ShardsForLinks(report, 10e6, 1e6, 5), 5);
  EXPECT_EQ(ShardsForLinks(Traffic({{0, 0}}), 1e6, 1e6, 50), 1);
}

class KubeCommandTest : public ::testing::Test {
 protected:
  KubeCommandTest() {
    command_.config_path = folder_ / "run.toml";
    command_.out = folder_ / "kube";
    command_.on = SourceFolder() / "deploy/kubernetes/cpu";
    command_.tls = SourceFolder() / "deploy/kubernetes/tls";
    Write(
        "[model]\npreset = \"llama-134m\"\n[data]\ntrain = [\"/shared/data/a.txt\"]\nseq_len = "
        "256\n"
        "[cluster]\nworkers = 8\nshards = 3\n[worker]\nthreads = 4\n");
  }
  void Write(const std::string& config) const { std::ofstream(command_.config_path) << config; }
  absl::Status Run() { return RunKubeRenderCommand(command_, out_, warnings_); }
  std::string Text(const std::string& name) const { return ReadAll(command_.out + "/" + name); }

  TempFolder folder_;
  KubeRenderCommand command_;
  std::ostringstream out_, warnings_;
};

TEST_F(KubeCommandTest, WritesTheConfigAndWhatItAsksFor) {
  ASSERT_EQ(Run(), absl::OkStatus());
  const absl::StatusOr<LoadedConfig> loaded = LoadConfig(command_.out + "/run.toml", {});
  ASSERT_EQ(loaded.status(), absl::OkStatus());
  EXPECT_EQ(loaded->config.run().dir(), "/state/run");
  EXPECT_EQ(loaded->config.checkpoint().dir(), "/shared/checkpoints");
  EXPECT_EQ(loaded->config.cluster().shards(), 3);
  const std::string text = Text("kustomization.yaml");
  EXPECT_THAT(text, HasSubstr("{name: sdp-shard, count: 3}"));
  EXPECT_THAT(text, HasSubstr("path: /spec/parallelism, value: 8}"));
  EXPECT_THAT(text, HasSubstr("limits/cpu, value: \"4\"}"));
  EXPECT_THAT(Text("values.yaml"),
              AllOf(HasSubstr("tls: true\n"), HasSubstr("limits: {cpu: \"4\", memory: ")));
  EXPECT_THAT(out_.str(), HasSubstr("8 workers of 4 CPUs and "));
  EXPECT_THAT(out_.str(), HasSubstr("kubectl apply -k "));
}

TEST_F(KubeCommandTest, Tls_UnlessAskedForNone_WithFilesOfTheSecretAlone) {
  command_.sets = {"security.ca=a", "security.cert=b", "security.key=c", "security.token=d"};
  ASSERT_EQ(Run(), absl::OkStatus());
  EXPECT_THAT(Text("kustomization.yaml"),
              ContainsRegex("components: \\[.*deploy/kubernetes/tls\\]"));
  EXPECT_THAT(out_.str(), HasSubstr("sdp certs --out certs --host sdp\nkubectl create secret "
                                    "generic sdp-tls --from-file=certs/ca.crt "));
  EXPECT_THAT(out_.str(), Not(HasSubstr("ca.key")));
  EXPECT_EQ(LoadConfig(command_.out + "/run.toml", {})->config.security().ca(), "");
  out_.str("");
  command_.tls = "none";
  ASSERT_EQ(Run(), absl::OkStatus());
  EXPECT_THAT(Text("kustomization.yaml"), Not(HasSubstr("components")));
  EXPECT_THAT(Text("values.yaml"), HasSubstr("tls: false\n"));
  EXPECT_THAT(out_.str(), AllOf(HasSubstr("without TLS"), Not(HasSubstr("certs"))));
  command_.tls = folder_ / "nowhere";
  EXPECT_THAT(std::string(Run().message()),
              AllOf(HasSubstr("--tls "), HasSubstr("no kustomization.yaml there; it is tls")));
}

TEST_F(KubeCommandTest, Cuda_AsksForTheHostsMemoryAndIsMadeOnGpu) {
  command_.sets = {"worker.device=cuda"};
  command_.on = "";
  fs::current_path(SourceFolder());
  ASSERT_EQ(Run(), absl::OkStatus());
  EXPECT_THAT(Text("kustomization.yaml"),
              ContainsRegex("resources: \\[.*deploy/kubernetes/gpu\\]"));
  EXPECT_THAT(out_.str(), HasSubstr("8 workers of 1 GPU, 4 CPUs and "));
  const absl::StatusOr<LoadedConfig> loaded = LoadConfig(command_.out + "/run.toml", {});
  EXPECT_EQ(loaded->config.worker().device(), "cuda");
  const RunSetup setup = MakeRunSetup(loaded->config).value();
  const PlanReport plan = ReportOf(setup, /*step=*/0).value();
  // Weights in and gradients out, not the peak of the GPU.
  const int64_t carried = plan.workers[0].pull_bytes + plan.workers[0].push_bytes;
  const int64_t asked = SizesOf(setup, plan).worker_memory_bytes;
  EXPECT_GE(asked, carried + (int64_t{4} << 30));
  EXPECT_LE(asked, carried + carried / 5 + (int64_t{4} << 30) + (int64_t{64} << 20));
}

TEST_F(KubeCommandTest, Bandwidth_NumberOfShards) {
  command_.bandwidth = "1Gbit";
  ASSERT_EQ(Run(), absl::OkStatus());
  const int64_t equal = LoadConfig(command_.out + "/run.toml", {})->config.cluster().shards();
  EXPECT_GE(equal, 7);  // nearly all that eight workers move at once
  EXPECT_LE(equal, 8);
  command_.shard_bandwidth = "10Gbit";
  ASSERT_EQ(Run(), absl::OkStatus());
  EXPECT_EQ(LoadConfig(command_.out + "/run.toml", {})->config.cluster().shards(), 1);
  EXPECT_THAT(Text("kustomization.yaml"), HasSubstr("{name: sdp-shard, count: 1}"));
  command_.bandwidth = "";
  EXPECT_THAT(std::string(Run().message()), HasSubstr("--shard-bandwidth goes with --bandwidth"));
}

TEST_F(KubeCommandTest, WhatPodsCannotHave_IsRefused) {
  Write("[model]\npreset = \"llama-tiny\"\n[data]\ntrain = [\"a.txt\"]\n");
  EXPECT_THAT(std::string(Run().message()), HasSubstr("data.train = \"a.txt\""));
  command_.sets = {R"(data.train=["/shared/data/a.txt"])"};
  command_.on = folder_ / "nowhere";
  const absl::Status nowhere = Run();
  EXPECT_EQ(nowhere.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(nowhere.message()), HasSubstr("no kustomization.yaml there"));
  EXPECT_THAT(Text("kustomization.yaml"), Not(HasSubstr("kind")));
}

}  // namespace
}  // namespace sdp

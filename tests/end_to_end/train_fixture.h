#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/places/places.h"

// Runs of the real programs on a tiny model, in a folder that goes with the test.
namespace sdp {

namespace fs = std::filesystem;
using Json = nlohmann::json;

struct Outcome {
  int exit_status = -1;
  std::string output;
};

class TrainFixture : public testing::Test {
 protected:
  TrainFixture() {
    std::string name = (fs::temp_directory_path() / "sdp-train-XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
    std::ofstream train(folder_ / "train.txt"), validation(folder_ / "validation.txt");
    for (int i = 0; i < 400; ++i)
      train << "The " << i << "th line of a text that is " << i * i % 97 << " words short.\n";
    for (int i = 0; i < 40; ++i)
      validation << "Another " << i << " lines that it was not trained on.\n";
    std::ofstream(folder_ / "run.toml")
        << "[model]\narch = \"llama\"\ndim = 16\nlayers = 4\nheads = 4\nkv_heads = 2\nffn_dim = "
           "24\n"
        << "[data]\nkind = \"text\"\ntrain = [\"" << (folder_ / "train.txt").string()
        << "\"]\nvalidation = [\"" << (folder_ / "validation.txt").string() << "\"]\nseq_len = 15\n"
        << "[train]\nsteps = 6\nglobal_batch = 10\nlr = 0.01\nclip_norm = 1.0\neval_every = 3\n"
        << "[cluster]\nworkers = 4\nshards = 2\n[worker]\nthreads = 1\n";
  }
  ~TrainFixture() override { fs::remove_all(folder_); }

  std::string Config() const { return (folder_ / "run.toml").string(); }
  fs::path RunDir(const std::string& name) const { return folder_ / name; }

  // Runs a shell command with a limit, in the test's folder.
  Outcome Shell(const std::string& command) const {
    Outcome outcome;
    const std::string whole =
        absl::StrCat("cd ", folder_.string(), " && timeout -k 5 100 ", command, " 2>&1");
    FILE* pipe = popen(whole.c_str(), "r");
    char buffer[4096];
    while (const size_t n = std::fread(buffer, 1, sizeof(buffer), pipe))
      outcome.output.append(buffer, n);
    outcome.exit_status = WEXITSTATUS(pclose(pipe));
    return outcome;
  }
  static std::string Program(const std::string& name) { return BinFolder() / name; }

  Outcome Train(const std::string& run, const std::string& more = "") const {
    return Shell(absl::StrCat(Program("sdp"), " train ", Config(),
                              " --set run.dir=", RunDir(run).string(), " ", more));
  }

  std::vector<Json> Metrics(const std::string& run) const {
    std::vector<Json> lines;
    std::ifstream file(RunDir(run) / "metrics.jsonl");
    for (std::string line; std::getline(file, line);) lines.push_back(Json::parse(line));
    return lines;
  }
  std::string StateHash(const std::string& run) const {
    const std::vector<Json> lines = Metrics(run);
    return lines.empty() ? "" : lines.back().value("state_hash", "");
  }

  fs::path folder_;
};

}  // namespace sdp

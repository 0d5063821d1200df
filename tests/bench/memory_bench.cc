// Question: does a worker's memory peak where the plan predicts it, for every model, with blocks
// and with heads, neurons and channels as units, forward and backward masking, with and without
// recomputation, at coverage 1, 1/2 and 1/4?
//
// A real cluster on loopback per row: `sdp train` with 4 workers of one thread and a shard, two
// steps, no evaluation. The peak is the worst worker's, of tensors and buffers, by its allocator;
// beside it what they were for at that moment, and VmHWM, which has everything: libraries, stacks,
// scratch and messages under way. Prints Markdown.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tests/bench/child.h"
#include "tests/places/places.h"

namespace sdp {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

struct Options {
  std::vector<double> coverages = {1, 0.5, 0.25};
  std::string only;  // models whose names begin so
};

struct Model {
  std::string name;
  std::string config;  // [model], [data] and [train]
};

std::vector<Model> Models(const fs::path& folder) {
  const std::string text = (folder / "text").string(), images = (folder / "images").string();
  const std::string llama = absl::StrFormat(
      "[model]\narch = \"llama\"\ndim = 256\nlayers = 2\nheads = 4\nffn_dim = 704\n"
      "[data]\nkind = \"text\"\ntrain = [\"%s\"]\nseq_len = 256\n[train]\nglobal_batch = 16\n",
      text);
  const auto image = [&](const std::string& sizes) {
    return absl::StrFormat(
        "[model]\n%s\n[data]\nkind = \"cifar10\"\ntrain = [\"%s\"]\n[train]\nglobal_batch = 32\n",
        sizes, images);
  };
  return {{"llama, f32", llama},
          {"llama, bf16", llama + "precision = \"bf16\"\n"},
          {"resnet", image("arch = \"resnet\"\nwidths = [32, 64, 128]\ndepths = [2, 2, 2]")},
          {"mlp", image("arch = \"mlp\"\ndim = 512\nlayers = 4\nffn_dim = 1024")},
          {"swin", image("preset = \"swin-cifar\"")}};
}

// The last line of a run's metrics.
Json Train(const fs::path& folder, const Model& model, const std::vector<std::string>& sets) {
  const fs::path run = folder / "run", config = folder / "run.toml";
  fs::remove_all(run);
  WriteFile(config, model.config);
  std::vector<std::string> command = {BinFolder() / "sdp", "train", config};
  std::vector<std::string> all = {"run.dir=" + run.string(), "train.steps=2",
                                  "train.eval_every=0",      "cluster.workers=4",
                                  "cluster.shards=1",        "worker.threads=1"};
  all.insert(all.end(), sets.begin(), sets.end());
  for (const std::string& set : all) command.insert(command.end(), {"--set", set});
  Output(command);
  std::ifstream metrics(run / "metrics.jsonl");
  std::string line, last;
  while (std::getline(metrics, line)) last = line;
  return Json::parse(last);
}

std::string MiB(const Json& bytes) {
  return absl::StrFormat("%.1f", bytes.get<double>() / (1 << 20));
}

struct Row {
  std::string masking, granularity;
  bool recompute = false;
  double coverage = 1;
};

// Returns peak / predicted.
double Print(const fs::path& folder, const Model& model, const Row& row) {
  const Json json = Train(folder, model,
                          {absl::StrCat("sdp.coverage=", row.coverage),
                           "sdp.masking=" + row.masking, "sdp.granularity=" + row.granularity,
                           absl::StrCat("train.recompute=", row.recompute ? "true" : "false")});
  const double peak = json["max_worker_allocated_bytes"];
  const double ratio = peak / json["predicted_worker_allocated_bytes"].get<double>();
  const Json& kinds = json["largest_worker"]["peak_bytes"];
  std::cout << absl::StrFormat("| %s | %s | %ss | %s | %g | %s | %s | %.3f |", model.name,
                               row.masking, row.granularity, row.recompute ? "yes" : "no",
                               row.coverage, MiB(json["predicted_worker_allocated_bytes"]),
                               MiB(json["max_worker_allocated_bytes"]), ratio);
  for (const char* const kind :
       {"parameters", "gradients", "activations", "communication", "other"})
    std::cout << " " << MiB(kinds[kind]) << " |";
  std::cout << " " << MiB(json["max_worker_memory_bytes"]) << " |" << std::endl;
  return ratio;
}

std::vector<Row> Rows(const std::vector<double>& coverages) {
  std::vector<Row> rows;
  for (const std::string masking : {"forward", "backward"}) {
    for (const std::string granularity : {"block", "neuron"}) {
      for (const bool recompute : {false, true}) {
        for (const double coverage : coverages)
          rows.push_back({masking, granularity, recompute, coverage});
      }
    }
  }
  return rows;
}

void Run(const Options& options) {
  char name[] = "/tmp/memory_bench.XXXXXX";
  if (mkdtemp(name) == nullptr) throw std::runtime_error("no temporary folder");
  const fs::path folder = name;
  WriteFile(folder / "text", RandomText(int64_t{1} << 20));
  // Records of a class and 3,072 pixels: a class is a byte below 10.
  std::string images = RandomText(1000 * 3073);
  for (size_t record = 0; record < images.size(); record += 3073) images[record] = 3;
  WriteFile(folder / "images", images);
  std::cout
      << "Memory of the worst of 4 workers, MiB: predicted, and peak of tensors and buffers; "
         "what they were for at that peak; VmHWM\n\n"
         "| model | masking | units | recompute | coverage | predicted | peak | ratio | "
         "parameters | gradients | activations | communication | other | VmHWM |\n"
         "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- "
         "|\n";
  double least = std::numeric_limits<double>::max(), most = 0;
  for (const Model& model : Models(folder)) {
    if (!absl::StartsWith(model.name, options.only)) continue;
    for (const Row& row : Rows(options.coverages)) {
      const double ratio = Print(folder, model, row);
      least = std::min(least, ratio);
      most = std::max(most, ratio);
    }
  }
  std::cout << absl::StrFormat("\nPeak / predicted: %.3f to %.3f.\n", least, most);
  fs::remove_all(folder);
}

}  // namespace
}  // namespace sdp

int main(int argc, char** argv) {
  sdp::Options options;
  CLI::App app("Does a worker's memory peak where the plan predicts it?");
  app.add_option("--coverage", options.coverages, "a row for each; default: 1 0.5 0.25");
  app.add_option("--model", options.only, "only those whose names begin so");
  CLI11_PARSE(app, argc, argv);
  try {
    sdp::Run(options);
  } catch (const std::exception& error) {
    std::cerr << "memory_bench: " << error.what() << std::endl;
    return 1;
  }
}

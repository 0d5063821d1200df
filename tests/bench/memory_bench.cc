// Question: does a worker's memory peak where the plan predicts it, for LLaMA and ResNet, with
// forward and backward masking, at coverage 1, 1/2 and 1/4, with and without recomputation?
//
// A real cluster on loopback per row: `sdp train` with 4 workers of one thread and 2 shards, three
// steps, no evaluation. The peak is the worst worker's, of tensors and buffers, by its allocator;
// beside it what they were for at that moment, and VmHWM, which has everything: libraries, stacks,
// scratch and messages under way. Prints Markdown.
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tests/bench/child.h"
#include "tests/places/places.h"

namespace sdp {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

struct Model {
  std::string name;
  std::string config;  // [model], [data] and global_batch
};

std::vector<Model> Models(const fs::path& folder) {
  const std::string text = (folder / "text").string(), images = (folder / "images").string();
  return {{"llama: dim 256, 4 layers, 2,048 tokens",
           absl::StrFormat("[model]\narch = \"llama\"\ndim = 256\nlayers = 4\nheads = 4\nffn_dim = "
                           "704\n[data]\nkind = \"text\"\ntrain = [\"%s\"]\nseq_len = 256\n"
                           "[train]\nglobal_batch = 32\n",
                           text)},
          {"resnet: 64 to 256 channels, 8 images",
           absl::StrFormat("[model]\narch = \"resnet\"\nwidths = [64, 128, 256]\ndepths = [2, 2, "
                           "2]\n[data]\nkind = \"cifar10\"\ntrain = [\"%s\"]\n"
                           "[train]\nglobal_batch = 32\n",
                           images)}};
}

// The last line of a run's metrics.
Json Train(const fs::path& folder, const Model& model, const std::vector<std::string>& sets) {
  const fs::path run = folder / "run", config = folder / "run.toml";
  fs::remove_all(run);
  WriteFile(config, model.config);
  std::vector<std::string> command = {BinFolder() / "sdp", "train", config};
  std::vector<std::string> all = {"run.dir=" + run.string(), "train.steps=3",
                                  "train.eval_every=0",      "cluster.workers=4",
                                  "cluster.shards=2",        "worker.threads=1"};
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

// Returns peak / predicted.
double PrintRow(const fs::path& folder, const Model& model, double coverage,
                const std::string& masking, bool recompute) {
  const Json json = Train(folder, model,
                          {absl::StrCat("sdp.coverage=", coverage), "sdp.masking=" + masking,
                           absl::StrCat("train.recompute=", recompute ? "true" : "false")});
  const double peak = json["max_worker_allocated_bytes"];
  const double ratio = peak / json["predicted_worker_allocated_bytes"].get<double>();
  const Json& kinds = json["largest_worker"]["peak_bytes"];
  std::cout << absl::StrFormat("| %s | %g | %s | %s | %s | %s | %.3f |", model.name, coverage,
                               masking, recompute ? "yes" : "no",
                               MiB(json["max_worker_allocated_bytes"]),
                               MiB(json["predicted_worker_allocated_bytes"]), ratio);
  for (const char* const kind :
       {"parameters", "gradients", "activations", "communication", "other"})
    std::cout << " " << MiB(kinds[kind]) << " |";
  std::cout << " " << MiB(json["max_worker_memory_bytes"]) << " |" << std::endl;
  return ratio;
}

int Main() {
  char name[] = "/tmp/memory_bench.XXXXXX";
  if (mkdtemp(name) == nullptr) throw std::runtime_error("no temporary folder");
  const fs::path folder = name;
  WriteFile(folder / "text", RandomText(int64_t{1} << 20));
  // Records of a class and 3,072 pixels: a class is a byte below 10.
  std::string images = RandomText(1000 * 3073);
  for (size_t record = 0; record < images.size(); record += 3073) images[record] = 3;
  WriteFile(folder / "images", images);
  std::cout << "Memory of the worst of 4 workers, MiB: peak of tensors and buffers, predicted; at "
               "that peak; VmHWM\n\n"
               "| model | coverage | masking | recompute | peak | predicted | ratio | parameters | "
               "gradients | activations | communication | other | VmHWM |\n"
               "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";
  double least = 2, most = 0;
  for (const Model& model : Models(folder)) {
    for (const std::string masking : {"forward", "backward"}) {
      for (const bool recompute : {false, true}) {
        for (const double coverage : {1.0, 0.5, 0.25}) {
          const double ratio = PrintRow(folder, model, coverage, masking, recompute);
          least = std::min(least, ratio);
          most = std::max(most, ratio);
        }
      }
    }
  }
  std::cout << absl::StrFormat("\nPeak / predicted: %.3f to %.3f.\n", least, most);
  fs::remove_all(folder);
  return 0;
}

}  // namespace
}  // namespace sdp

int main() {
  try {
    return sdp::Main();
  } catch (const std::exception& error) {
    std::cerr << "memory_bench: " << error.what() << std::endl;
    return 1;
  }
}

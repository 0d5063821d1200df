// Question: does a step cost in time what the plan says it does in multiply-accumulates, and does a
// worker's memory peak where the plan predicts it, at coverage 1, 3/4, 1/2 and 1/4?
//
// A real cluster on loopback per measurement: `sdp train` with 4 workers of one thread, 2 shards, a
// LLaMA of dim 512 at 2,048 tokens per worker and step, bytes as vocabulary. Coverages take turns,
// so that load on the machine meets all of them. Step time is the time between step lines;
// CPU-seconds are those of all processes of the run between the same two lines, start and first
// step left out. With fewer than 4 cores the step time is the CPU's: processes share the cores, so
// the CPU-seconds are the better figure. Memory is the worst worker's peak of tensors and buffers
// over the run, which has no evaluation. Prints Markdown; ratios are to coverage 1 of the same
// turn.
#include <dirent.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
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
using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;

constexpr std::array<double, 4> kCoverages = {1, 0.75, 0.5, 0.25};
constexpr int kWorkers = 4;

struct Options {
  std::string sdp = BinFolder() / "sdp";
  int repetitions = 3;
  int steps = 3;  // measured ones; one more goes before
  int dim = 512, layers = 4, ffn_dim = 1408, seq_len = 256, tokens = 2048;
};

// One run's figures.
struct Figures {
  double step_sec = 0, cpu_sec = 0;                  // per step
  double macs = 0;                                   // per sample, all workers
  double allocated = 0, predicted = 0, process = 0;  // bytes, of the worst worker
};

// The run's configuration, all but coverage and folder.
std::string Config(const Options& options, const fs::path& folder) {
  return absl::StrFormat(
      "[model]\narch = \"llama\"\ndim = %d\nlayers = %d\nheads = 8\nkv_heads = 8\nffn_dim = %d\n"
      "[data]\nkind = \"text\"\ntrain = [\"%s\"]\nvalidation = []\nseq_len = %d\n"
      "[train]\nsteps = %d\nglobal_batch = %d\neval_every = 0\n"
      "[cluster]\nworkers = %d\nshards = 2\n[worker]\nthreads = 1\n",
      options.dim, options.layers, options.ffn_dim, (folder / "text").string(), options.seq_len,
      options.steps + 1, kWorkers * options.tokens / options.seq_len, kWorkers);
}

struct ProcessTimes {
  pid_t parent = 0;
  double cpu_sec = 0;
};

// Of /proc/PID/stat; a process that is gone has none.
ProcessTimes TimesOf(pid_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/stat"));
  std::string text((std::istreambuf_iterator<char>(file)), {});
  ProcessTimes times;
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return times;
  std::istringstream fields(text.substr(name_end + 1));
  std::string state, skipped;
  fields >> state >> times.parent;
  for (int i = 0; i < 9; ++i) fields >> skipped;  // up to cmajflt
  double user = 0, system = 0;
  fields >> user >> system;
  times.cpu_sec = (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
  return times;
}

// Of a process and its children.
double CpuSeconds(pid_t launcher) {
  double sum = TimesOf(launcher).cpu_sec;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (!std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; }))
      continue;
    const ProcessTimes times = TimesOf(static_cast<pid_t>(std::stoi(name)));
    if (times.parent == launcher) sum += times.cpu_sec;
  }
  return sum;
}

Figures Train(const Options& options, const fs::path& folder, double coverage) {
  const fs::path run = folder / "run";
  fs::remove_all(run);
  const Child child =
      Start({options.sdp, "train", folder / "run.toml", "--set",
             absl::StrCat("sdp.coverage=", coverage), "--set", "run.dir=" + run.string()});
  struct Mark {
    Clock::time_point time;
    double cpu_sec = 0;
  } first, last;
  char line[4096];
  while (std::fgets(line, sizeof(line), child.out) != nullptr) {
    if (!absl::StartsWith(line, "step ") || !absl::StrContains(line, " loss ")) continue;
    Mark& mark = absl::StartsWith(line, "step 0/") ? first : last;
    mark = {Clock::now(), CpuSeconds(child.pid)};
  }
  Finish(child, "sdp train");
  Figures figures;
  figures.step_sec = std::chrono::duration<double>(last.time - first.time).count() / options.steps;
  figures.cpu_sec = (last.cpu_sec - first.cpu_sec) / options.steps;
  std::ifstream metrics(run / "metrics.jsonl");
  for (std::string text; std::getline(metrics, text);) {
    const Json json = Json::parse(text);
    figures.allocated = json["max_worker_allocated_bytes"];
    figures.predicted = json["predicted_worker_allocated_bytes"];
    figures.process = json["max_worker_memory_bytes"];
  }
  std::ifstream file(run / "plan.json");
  const Json plan = Json::parse(file);
  for (const Json& worker : plan["workers"]) figures.macs += worker["macs"].get<double>();
  return figures;
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

// "0.52 (0.50-0.55)"
std::string Spread(const std::vector<double>& values, const char* format) {
  const auto number = [&](double value) {
    return absl::StrFormat(*absl::ParsedFormat<'f'>::New(format), value);
  };
  return absl::StrCat(number(Median(values)), " (",
                      number(*std::min_element(values.begin(), values.end())), "-",
                      number(*std::max_element(values.begin(), values.end())), ")");
}

std::vector<double> Each(const std::vector<Figures>& runs, double Figures::*figure) {
  std::vector<double> values;
  for (const Figures& run : runs) values.push_back(run.*figure);
  return values;
}

std::vector<double> Ratios(const std::vector<Figures>& runs, const std::vector<Figures>& base,
                           double Figures::*figure) {
  std::vector<double> values;
  for (size_t i = 0; i < runs.size(); ++i) values.push_back(runs[i].*figure / (base[i].*figure));
  return values;
}

std::string CoverageText(double coverage) {
  return coverage == 1 ? "1" : absl::StrCat(coverage * 4, "/4");
}

void PrintTables(const std::map<double, std::vector<Figures>>& runs) {
  const std::vector<Figures>& base = runs.at(1);
  std::cout
      << "Median (least-most) of " << base.size()
      << " turns; ratios to coverage 1 of the same turn. Bar: CPU-seconds <= MAC share + 0.1, "
         "memory within 10% of the plan.\n\n"
      << "| coverage | MAC share | step, s | ratio | CPU-s per step | ratio | over MAC share |\n"
      << "| --- | --- | --- | --- | --- | --- | --- |\n";
  for (const double coverage : kCoverages) {
    const std::vector<Figures>& here = runs.at(coverage);
    const double share = here[0].macs / base[0].macs;
    const std::vector<double> cpu = Ratios(here, base, &Figures::cpu_sec);
    std::cout << "| " << CoverageText(coverage) << " | " << absl::StrFormat("%.3f", share) << " | "
              << Spread(Each(here, &Figures::step_sec), "%.2f") << " | "
              << Spread(Ratios(here, base, &Figures::step_sec), "%.3f") << " | "
              << Spread(Each(here, &Figures::cpu_sec), "%.2f") << " | " << Spread(cpu, "%.3f")
              << " | " << absl::StrFormat("%+.3f", Median(cpu) - share) << " |\n";
  }
  std::cout
      << "\n| coverage | worst worker's peak, MiB | predicted, MiB | peak / predicted | peak, "
         "ratio | VmHWM, MiB |\n| --- | --- | --- | --- | --- | --- |\n";
  constexpr double kMiB = 1 << 20;
  for (const double coverage : kCoverages) {
    const std::vector<Figures>& here = runs.at(coverage);
    std::vector<double> peaks = Each(here, &Figures::allocated);
    for (double& peak : peaks) peak /= kMiB;
    const double predicted = here[0].predicted / kMiB;
    std::cout << "| " << CoverageText(coverage) << " | " << Spread(peaks, "%.1f") << " | "
              << absl::StrFormat("%.1f | %.3f", predicted, Median(peaks) / predicted) << " | "
              << Spread(Ratios(here, base, &Figures::allocated), "%.3f") << " | "
              << absl::StrFormat("%.0f", Median(Each(here, &Figures::process)) / kMiB) << " |\n";
  }
}

// What `sdp plan` says of a preset with 8 workers; nothing is run.
void PrintPreset(const Options& options, const fs::path& folder) {
  std::cout << "\nWorst worker of llama-134m, 8 workers, as planned (nothing measured):\n\n"
               "| tokens per worker | coverage | MAC share | memory, MiB | ratio |\n"
               "| --- | --- | --- | --- | --- |\n";
  for (const int tokens : {1024, 8192}) {
    double base = 0;
    for (const double coverage : kCoverages) {
      const fs::path config = folder / "preset.toml";
      WriteFile(
          config,
          absl::StrFormat("[model]\npreset = \"llama-134m\"\n[sdp]\ncoverage = %g\n[data]\nkind = "
                          "\"tokens\"\ntrain = [\"none\"]\nseq_len = 1024\n[train]\nglobal_batch "
                          "= %d\n[cluster]\nworkers = 8\n",
                          coverage, 8 * tokens / 1024));
      const Json plan = Json::parse(Output({options.sdp, "plan", config, "--json"}));
      double memory = 0, macs = 0, all = 0;
      for (const Json& worker : plan["workers"]) {
        memory = std::max(memory, worker["memory_bytes"].get<double>());
        macs = std::max(macs, worker["macs"].get<double>());
      }
      for (const Json& unit : plan["units"]) all += unit["macs"].get<double>();
      if (coverage == 1) base = memory;
      std::cout << "| " << tokens << " | " << CoverageText(coverage)
                << absl::StrFormat(" | %.3f | %.0f | %.3f |\n", macs / all, memory / (1 << 20),
                                   memory / base);
    }
  }
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("Step time and peak memory against coverage.", "step_bench");
  app.add_option("--sdp", options.sdp, "the program to run")->capture_default_str();
  app.add_option("--repetitions", options.repetitions, "turns")->capture_default_str();
  app.add_option("--steps", options.steps, "measured steps per run")->capture_default_str();
  app.add_option("--tokens", options.tokens, "per worker and step")->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  char name[] = "/tmp/step_bench.XXXXXX";
  if (mkdtemp(name) == nullptr) throw std::runtime_error("no temporary folder");
  const fs::path folder = name;
  WriteFile(folder / "text", RandomText(int64_t{1} << 20));
  WriteFile(folder / "run.toml", Config(options, folder));
  std::map<double, std::vector<Figures>> runs;
  for (int turn = 0; turn < options.repetitions; ++turn) {
    for (const double coverage : kCoverages) {
      const Figures figures = Train(options, folder, coverage);
      // Of each run, so that a benchmark that is broken off was not for nothing.
      std::cerr << absl::StrFormat(
          "turn %d, coverage %g: step %.2f s, %.2f CPU-s, peak %.0f of %.0f bytes predicted\n",
          turn + 1, coverage, figures.step_sec, figures.cpu_sec, figures.allocated,
          figures.predicted);
      runs[coverage].push_back(figures);
    }
  }
  std::cout << absl::StrFormat(
      "Step against coverage: LLaMA dim %d, %d layers, ffn %d, bytes; %d tokens per worker and "
      "step; %d workers of 1 thread and 2 shards as processes (`sdp train`) on %d cores.\n\n",
      options.dim, options.layers, options.ffn_dim, options.tokens, kWorkers,
      static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)));
  PrintTables(runs);
  PrintPreset(options, folder);
  fs::remove_all(folder);
  return 0;
}

}  // namespace
}  // namespace sdp

int main(int argc, char** argv) {
  try {
    return sdp::Main(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "step_bench: " << error.what() << std::endl;
    return 1;
  }
}

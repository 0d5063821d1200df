// Is a shard's update as fast as memory? Optimizer::Update over arrays that no cache holds, against
// a loop that reads and writes the same bytes and computes next to nothing, in turns in one
// process. Prints rows of a Markdown table: ratio = time of that loop / time of the update. Bar:
// 0.9.
#include <sys/mman.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/float_buffer.h"
#include "server/shard/logic/optimizer.h"
#include "tests/bench/memory_floor.h"
#include "tests/bench/stats.h"

namespace sdp {
namespace {

constexpr int64_t kElements = int64_t{1} << 24;  // 64 MiB an array
constexpr int64_t kFragment = int64_t{1} << 20;

FloatBuffer Filled(int64_t size, float value) {
  FloatBuffer buffer(size);
  // Pages of 4 KiB would cost both sides the same number of faults and misses; large ones cost
  // less.
  const auto begin = (reinterpret_cast<uintptr_t>(buffer.data()) + 4095) & ~uintptr_t{4095};
  const auto end = reinterpret_cast<uintptr_t>(buffer.data() + size) & ~uintptr_t{4095};
  (void)madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
  for (int64_t i = 0; i < size; ++i) buffer.data()[i] = value + static_cast<float>(i % 97);
  return buffer;
}

double Milliseconds(const std::function<void()>& run) {
  const absl::Time begin = absl::Now();
  run();
  return absl::ToDoubleMilliseconds(absl::Now() - begin);
}

void Measure(const char* name, const OptimizerOptions& options, int repeats) {
  const std::unique_ptr<Optimizer> optimizer = MakeOptimizer(options);
  FloatBuffer value = Filled(kElements, 1), gradient = Filled(kElements, 2);
  OptimizerState state = optimizer->NewState(kElements);
  std::vector<FloatBuffer> moments;  // of huge pages too
  for (size_t i = 0; i < state.moments.size(); ++i) moments.push_back(Filled(kElements, 1));
  state.moments = std::move(moments);

  std::vector<double> ours, floor, ratio;
  for (int r = -1; r < repeats; ++r) {
    const double floor_ms =
        Milliseconds([&] { UpdateFloor(value.span(), gradient.span(), state.moments); });
    const double ours_ms = Milliseconds([&] {
      for (int64_t begin = 0; begin < kElements; begin += kFragment) {
        optimizer->Update(value.data(), gradient.data(), value.data(), state, begin,
                          begin + kFragment, 1, 1e-4, 0.1, 10);
      }
    });
    if (r < 0) continue;  // warms up
    floor.push_back(floor_ms);
    ours.push_back(ours_ms);
    ratio.push_back(floor_ms / ours_ms);
  }
  const double bytes = 4.0 * kElements * static_cast<double>(3 + 2 * state.moments.size());
  std::printf("| %s, 64 MiB of values | %s | %s | %s | %.1f GB/s |\n", name, Spread(floor).c_str(),
              Spread(ours).c_str(), Spread(ratio, "%.2f").c_str(), bytes / Median(ours) / 1e6);
}

}  // namespace
}  // namespace sdp

int main(int argc, char** argv) {
  int repeats = 15;
  CLI::App app("The optimizer against the memory's speed.", "optimizer_bench");
  app.add_option("--repeats", repeats, "measurements of each")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  sdp::OptimizerOptions options;
  std::printf(
      "| update, one thread (ms: min/median/max) | same reads and writes | ours | ratio | ours |\n"
      "| --- | --- | --- | --- | --- |\n");
  sdp::Measure("AdamW", options, repeats);
  options.kind = sdp::OptimizerOptions::Kind::kSgd;
  sdp::Measure("SGD with momentum", options, repeats);
}

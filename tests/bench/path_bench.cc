// How near is a step's data path to what sockets and memory allow? One shard in its own process and
// each worker in its own, over TCP on loopback: every step each worker pushes 64 MiB of gradients,
// the shard sums them and runs AdamW, and the worker pulls the new 64 MiB. Pipelined as in
// training: a fragment's next version is asked for as soon as its gradient is handed over. The
// worker's ShardStreams, frames, checksums and the shard's service are the product's; nobody
// computes. Floor: raw sockets, same bytes, both directions at once, a connection and two processes
// for each worker; plus a loop over the sum's and the update's memory traffic, on one thread. Both
// are measured next to ours in each repetition. Prints rows of a Markdown table; ratio = floor /
// ours, of time, and of all processes' CPU time, which a busy machine distorts less. Bar: 0.5,
// later 0.8. With --tls each measurement is made again over TLS, and the column tells how much
// longer a step takes with it.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "common/base/mutex.h"
#include "common/process/role.h"
#include "common/rpc/channel.h"
#include "common/rpc/identity.h"
#include "common/rpc/server.h"
#include "server/shard/service/shard_service.h"
#include "tests/bench/memory_floor.h"
#include "tests/bench/pipes.h"
#include "tests/bench/raw_sockets.h"
#include "tests/bench/stats.h"
#include "worker/service/shard_streams.h"

namespace sdp {
namespace {

constexpr int64_t kElements = int64_t{1} << 24;  // 64 MiB
constexpr int64_t kStepBytes = 4 * kElements;

Catalog OneUnit() {
  Catalog catalog;
  catalog.tensors = {{"weights", {kElements}, {}, true}};
  UnitSpec unit;
  unit.name = unit.kind = "all";
  unit.slices = {{0, -1, 0, 0}};
  unit.params = kElements;
  catalog.units = {unit};
  return catalog;
}

StreamName NameOf(int worker) {
  return {Generation(1), Incarnation(worker), static_cast<uint64_t>(worker)};
}

// Called in each process, as it starts a thread.
SecurityOptions SecurityOf(const RunConfig::Security& files) {
  return LoadSecurity(files, {}, /*log=*/nullptr).value();
}

// ---- The shard's process ----

class SilentLink final : public CoordinatorLink {
 public:
  void ReportReduced(const Reduced&) override {}
  void ReportDiagnosed(const Diagnosed&) override {}
  void ReportStepDone(const StepDone&) override {}
  void ReportStateHashes(const StateHashes&) override {}
  void ReportCheckpoint(const CheckpointPart&) override {}
  void ReportNotFinite(const NotFiniteReport&) override { std::abort(); }
};

// Serves until `parent` closes its end; then tells the CPU time used since the last byte from it.
void RunShard(const Catalog& catalog, const Layout& layout, const RunConfig::Security& files,
              Pipes& parent) {
  KeepFreedMemory();
  SilentLink link;
  EventLoop logic("shard");
  ShardService::Options options;
  options.name = "shard-0";
  options.layout = &layout;
  options.units = 1;
  ShardService service(options, &logic, &link, [] {});
  auto server = RpcServer::Start("127.0.0.1:0", SecurityOf(files), {&service}).value();
  Shard::Options shard;
  shard.name = "shard-0";
  shard.catalog = &catalog;
  shard.layout = &layout;
  shard.generation = Generation(1);
  shard.optimizer.lr = 1e-4;
  ShardAdmission admission;
  admission.shards = 1;
  admission.generation = Generation(1);
  admission.term = Term(1);
  service.Start(admission, std::make_unique<Shard>(
                               shard, [](FragmentId, absl::Span<float> values, OptimizerState&) {
                                 std::fill(values.begin(), values.end(), 1.0f);
                               }));
  parent.WriteLine(server->address());
  std::string line;
  double cpu = 0;
  while (parent.ReadLine(&line)) {
    if (line == "begin") cpu = CpuMilliseconds();
    if (line == "end") parent.WriteLine(std::to_string(CpuMilliseconds() - cpu));
  }
  server->Shutdown();
  logic.Stop();
}

void Bind(const std::string& address, const RunConfig::Security& files, int workers, int steps) {
  auto stub = proto::Shard::NewStub(MakeChannel(address, SecurityOf(files)).value());
  for (int step = 0; step < steps; ++step) {
    proto::BindRequest request;
    request.set_generation(1);
    request.set_view(1);
    request.set_step(step);
    auto* holders = request.mutable_holders();
    auto* set = holders->add_sets();
    for (int w = 1; w <= workers; ++w) {
      holders->add_members(w);
      holders->add_instances(NameOf(w).instance);
      set->add_ranks(w - 1);
    }
    holders->add_set_of_unit(0);
    grpc::ClientContext context;
    proto::ControlResponse response;
    const grpc::Status status = stub->Bind(&context, request, &response);
    if (!status.ok()) {
      std::fprintf(stderr, "bind: %s\n", status.error_message().c_str());
      std::abort();
    }
  }
}

// ---- A worker's process ----

// Answers each value with its gradient and asks for the next version. Confined to the owner's loop.
class BenchWorker {
 public:
  BenchWorker(const Layout* layout, const std::string& address, const RunConfig::Security& files,
              int number, int steps)
      : layout_(layout), number_(number), steps_(steps) {
    for (int f = 0; f < layout->fragments(); ++f) {
      auto gradient = std::make_shared<FloatBuffer>(layout->fragment(FragmentId(f)).size);
      for (int64_t i = 0; i < gradient->size(); ++i)
        gradient->data()[i] = 1e-3f * static_cast<float>(i % 1001 - 500 + number);
      gradients_.push_back(std::make_shared<const WireBuffer>(std::move(*gradient)));
    }
    left_.assign(static_cast<size_t>(steps), layout->fragments());
    ShardStreams::Events events;
    events.connected = [this](ShardId) { connected_.Notify(); };
    events.disconnected = [](ShardId, const absl::Status& why) {
      std::fprintf(stderr, "%s\n", why.ToString().c_str());
      std::abort();
    };
    events.refused = [](Step, FragmentId, Answer answer, const std::string& detail) {
      std::fprintf(stderr, "pull: %s %s\n", AnswerName(answer), detail.c_str());
      std::abort();
    };
    events.push_answer = [](const PushAnswer& answer) {
      if (answer.answer == Answer::kReceived) return;
      std::fprintf(stderr, "push: %s %s\n", AnswerName(answer.answer), answer.detail.c_str());
      std::abort();
    };
    events.pushed = [](Step, int64_t) {};
    events.value = [this](Step step, FragmentId fragment, WireBuffer, int64_t) {
      OnValue(step, fragment);
    };
    ShardStreams::Options options;
    options.layout = layout;
    options.name = NameOf(number);
    options.addresses = {address};
    options.security = SecurityOf(files);
    streams_ = ShardStreams::Create(options, std::move(events), &owner_).value();
  }
  ~BenchWorker() { owner_.Stop(); }

  void AwaitConnected() { connected_.Await(); }
  void Begin() {
    PullRequest all;
    static_cast<RequestKey&>(all) = Key(0);
    for (int f = 0; f < layout_->fragments(); ++f) all.fragments.emplace_back(f);
    streams_->Pull(ShardId(0), all);
  }
  void AwaitStep(int step) { step == 0 ? first_.Await() : last_.Await(); }

 private:
  struct Event {  // once
    void Notify() {
      MutexLock lock(&mutex);
      come = true;
    }
    void Await() {
      MutexLock lock(&mutex);
      mutex.AwaitWithDeadline(absl::Condition(&come), absl::Now() + absl::Minutes(2));
      if (!come) std::abort();
    }
    Mutex mutex;
    bool come = false;
  };

  PushKey Key(Step step) const {
    PushKey key;
    key.generation = Generation(1);
    key.view = ViewId(1);
    key.term = Term(1);
    key.step = step;
    key.worker = Incarnation(number_);
    return key;
  }

  void OnValue(Step step, FragmentId fragment) {
    if (--left_[static_cast<size_t>(step)] == 0) {
      if (step == 1) first_.Notify();
      if (step + 1 == steps_) last_.Notify();
    }
    if (step + 1 == steps_) return;
    PushKey key = Key(step);
    key.fragment = fragment;
    key.terms = 8;
    streams_->Send(ShardId(0), key, gradients_[static_cast<size_t>(fragment.value())]);
    PullRequest next;
    static_cast<RequestKey&>(next) = Key(step + 1);
    next.fragments = {fragment};
    streams_->Pull(ShardId(0), next);
  }

  const Layout* const layout_;
  const int number_;
  const int steps_;
  std::vector<SharedWire> gradients_;
  std::vector<int> left_;  // [steps] fragments that have not come
  Event connected_, first_, last_;
  EventLoop owner_{"worker"};
  std::unique_ptr<ShardStreams> streams_;
};

// Says "ready"; at "go" runs all steps and tells milliseconds per step, from version 1 to the last,
// and CPU milliseconds per step.
void RunWorker(const Layout& layout, const std::string& address, const RunConfig::Security& files,
               int number, int steps, Pipes& parent) {
  // As glibc does by itself once a process has freed large tensors.
  KeepFreedMemory();
  BenchWorker worker(&layout, address, files, number, steps);
  worker.AwaitConnected();
  parent.WriteLine("ready");
  std::string line;
  if (!parent.ReadLine(&line)) return;
  worker.Begin();
  worker.AwaitStep(0);
  const absl::Time begin = absl::Now();
  const double cpu = CpuMilliseconds();
  worker.AwaitStep(steps);
  const double ms = absl::ToDoubleMilliseconds(absl::Now() - begin);
  parent.WriteLine(std::to_string(ms / (steps - 2)));
  parent.WriteLine(std::to_string((CpuMilliseconds() - cpu) / (steps - 2)));
}

// ---- The parent ----

struct Measured {
  double ms = 0, shard_cpu_ms = 0, worker_cpu_ms = 0;  // per step; worker: of all together
};

Measured MeasureOurs(const Catalog& catalog, const Layout& layout, const RunConfig::Security& files,
                     int workers, int steps) {
  Child shard([&](Pipes& parent) { RunShard(catalog, layout, files, parent); });
  const std::string address = shard.ReadLine();
  std::vector<std::unique_ptr<Child>> all;
  for (int w = 1; w <= workers; ++w) {
    all.push_back(std::make_unique<Child>(
        [&, w](Pipes& parent) { RunWorker(layout, address, files, w, steps, parent); }));
  }
  for (auto& worker : all) worker->ReadLine();
  // In a process of its own: this one must not have threads when it forks.
  Child([&](Pipes&) { Bind(address, files, workers, steps); });
  shard.WriteLine("begin");
  for (auto& worker : all) worker->WriteLine("go");
  Measured measured;
  for (auto& worker : all) {
    measured.ms = std::max(measured.ms, std::stod(worker->ReadLine()));
    measured.worker_cpu_ms += std::stod(worker->ReadLine());
  }
  shard.WriteLine("end");
  measured.shard_cpu_ms = std::stod(shard.ReadLine()) / steps;
  return measured;
}

// The best of a few, since a floor is what is possible.
double MeasureMemory(int workers) {
  std::vector<FloatBuffer> gradients, moments;
  for (int w = 0; w < workers; ++w) gradients.push_back(FloatBuffer::Zeros(kElements));
  for (int m = 0; m < 2; ++m) moments.push_back(FloatBuffer::Zeros(kElements));
  FloatBuffer value = FloatBuffer::Zeros(kElements);
  double best = 1e9;
  for (int r = 0; r < 4; ++r) {
    const absl::Time begin = absl::Now();
    SumFloor(gradients);
    UpdateFloor(value.span(), gradients[0].span(), moments);
    best = std::min(best, absl::ToDoubleMilliseconds(absl::Now() - begin));
  }
  return best;
}

void Measure(int workers, int64_t fragment_bytes, const RunConfig::Security& tls, int steps,
             int repeats) {
  const Catalog catalog = OneUnit();
  const Layout layout(catalog, fragment_bytes / 4);
  std::vector<double> ratio, ours, sockets, memory, cpu_ratio, shard_cpu, worker_cpu, with_tls;
  for (int r = 0; r < repeats; ++r) {
    const RawSockets raw = MeasureRawSockets(workers, kStepBytes, steps);
    sockets.push_back(raw.ms);
    memory.push_back(MeasureMemory(workers));
    const Measured measured = MeasureOurs(catalog, layout, {}, workers, steps);
    ours.push_back(measured.ms);
    shard_cpu.push_back(measured.shard_cpu_ms);
    worker_cpu.push_back(measured.worker_cpu_ms);
    ratio.push_back((raw.ms + memory.back()) / measured.ms);
    cpu_ratio.push_back((raw.cpu_ms + memory.back()) /
                        (measured.shard_cpu_ms + measured.worker_cpu_ms));
    if (tls.ca().empty()) continue;
    with_tls.push_back(MeasureOurs(catalog, layout, tls, workers, steps).ms / measured.ms);
  }
  std::printf("| %d | %lld KiB | %s + %s | %s | %s | %.0f + %.0f | %s | %s |\n", workers,
              static_cast<long long>(fragment_bytes >> 10), Spread(sockets).c_str(),
              Spread(memory).c_str(), Spread(ours).c_str(), Spread(ratio, "%.2f").c_str(),
              Median(shard_cpu), Median(worker_cpu), Spread(cpu_ratio, "%.2f").c_str(),
              with_tls.empty() ? "-" : Spread(with_tls, "%.2f").c_str());
  std::fflush(stdout);
}

}  // namespace
}  // namespace sdp

int main(int argc, char** argv) {
  int steps = 12, repeats = 5;
  std::vector<int> workers = {1, 2};
  std::vector<int64_t> fragments = {64, 256, 1024, 4096};
  CLI::App app("The data path between workers and a shard against sockets and memory.",
               "path_bench");
  app.add_option("--steps", steps, "steps of a measurement")->capture_default_str();
  app.add_option("--repeats", repeats, "measurements of each row")->capture_default_str();
  app.add_option("--workers", workers, "numbers of workers")->capture_default_str();
  app.add_option("--fragment-kib", fragments, "sizes of fragments")->capture_default_str();
  std::string folder;
  app.add_option("--tls", folder, "a folder made by `sdp certs`: measure with TLS too");
  CLI11_PARSE(app, argc, argv);
  sdp::RunConfig::Security tls;
  if (!folder.empty()) {
    tls.set_ca(folder + "/ca.crt");
    tls.set_cert(folder + "/sdp.crt");
    tls.set_key(folder + "/sdp.key");
    tls.set_token(folder + "/token");
  }
  sdp::KeepMutexesCheap();  // as BeginRole
  std::printf(
      "| workers | fragment | floor: sockets + memory (ms a step: min/median/max) | ours | ratio | "
      "CPU ms a step: shard + workers | CPU ratio | with TLS, of ours |\n"
      "| --- | --- | --- | --- | --- | --- | --- | --- |\n");
  for (const int count : workers) {
    for (const int64_t kib : fragments) sdp::Measure(count, kib << 10, tls, steps, repeats);
  }
}

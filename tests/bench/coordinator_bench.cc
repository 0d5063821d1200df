// Question: what does a coordinator cost with 1,000, 3,000 and 10,000 workers, and is any of it
// quadratic in their number?
//
// The coordinator's logic alone, with members that are no more than their messages and a store
// that answers at once (tests/coordinator/crowd.h); messages are converted and encoded as they are
// for gRPC, but nothing is sent. A model of 10,000 units on 8 workers each, 100,000 fragments, 16
// shards, no rotation; clipping; two steps in flight. Times are of the processor, in microseconds,
// so a busy machine matters little. Of a row that says "each" the cost of one call should not
// depend on the number of workers (order 0); of the others, which tell or look at everybody once,
// it may grow as that number (order 1). Order: ln(cost ratio) / ln(workers ratio), last over first
// size. Memory is what the allocator has in use for the coordinator. Prints a Markdown table.
#include <malloc.h>
#include <time.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/control/convert.h"
#include "common/rpc/shard_convert.h"
#include "tests/coordinator/crowd.h"

namespace sdp {
namespace {

double ProcessorMicros() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return 1e6 * static_cast<double>(time.tv_sec) + 1e-3 * static_cast<double>(time.tv_nsec);
}

double MicrosOf(const std::function<void()>& work) {
  const double start = ProcessorMicros();
  work();
  return ProcessorMicros() - start;
}

int64_t BytesInUse() {
  const struct mallinfo2 info = mallinfo2();
  return static_cast<int64_t>(info.uordblks + info.hblkhd);
}

double Quantile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(share * static_cast<double>(values.size() - 1))];
}

double Sum(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum;
}

double Mean(const std::vector<double>& values) {
  return Sum(values) / static_cast<double>(values.size());
}

// What the service does with what the logic says, up to the socket.
class Sender {
 public:
  void Send(const CoordinatorActions& actions) {
    for (const auto& admit : actions.admit_workers) admission_ = Encode(ToProto(*admit.admission));
    for (const auto& bind : actions.bind_shards) {
      const size_t bytes = Encode(ToProto(bind.binding));
      if (bind.binding.holders != nullptr) shard_binding_ = bytes;
    }
    for (const auto& bind : actions.bind_workers) {
      const size_t bytes = Encode(ToProto(bind.binding));
      (bind.binding.units != nullptr ? worker_units_ : worker_binding_) = bytes;
      plan_ = bind.binding.plan;
      for (const EvaluationPart& part : bind.binding.evaluations)
        evaluations_.emplace_back(bind.worker, part);
    }
  }
  int64_t plan() const { return plan_; }  // of the last binding
  std::vector<std::pair<Incarnation, EvaluationPart>> TakeEvaluations() {
    return std::exchange(evaluations_, {});
  }
  size_t admission() const { return admission_; }
  size_t shard_binding() const { return shard_binding_; }
  size_t worker_units() const { return worker_units_; }
  size_t worker_binding() const { return worker_binding_; }

 private:
  template <typename Message>
  size_t Encode(const Message& message) {
    message.SerializeToString(&buffer_);
    return buffer_.size();
  }
  std::string buffer_;
  int64_t plan_ = -1;
  std::vector<std::pair<Incarnation, EvaluationPart>> evaluations_;
  // Of the last one, in bytes.
  size_t admission_ = 0, shard_binding_ = 0, worker_units_ = 0, worker_binding_ = 0;
};

struct Row {
  std::string what;
  double value = 0;
};

// The figures of one size, in the order of the table. Steps 0 to 5 train, 6 is evaluated, then
// members come and go.
class Measurement {
 public:
  static constexpr Step kEvaluated = 6;

  explicit Measurement(Crowd::Size size) : size_(size), before_(BytesInUse()) {
    size_.eval_every = kEvaluated;
    crowd_ = std::make_unique<Crowd>(size_);
  }

  std::vector<Row> Run() {
    Gather();
    Train();
    Evaluate();
    Change();
    Look();
    rows_.push_back({"bytes of a worker's binding", 1.0 * sender_.worker_binding()});
    rows_.push_back({"bytes of one with its units", 1.0 * sender_.worker_units()});
    rows_.push_back({"bytes of a worker's admission", 1.0 * sender_.admission()});
    rows_.push_back({"bytes of a shard's binding with all holders", 1.0 * sender_.shard_binding()});
    return std::move(rows_);
  }

 private:
  struct Cost {
    double bind = 0;                  // of the first question
    std::vector<double> ask, report;  // of the others; of all
    double commit = 0;
    double all() const { return bind + Sum(ask) + Sum(report) + commit; }
  };

  double Time(const std::function<CoordinatorActions()>& call) {
    return MicrosOf([&] { sender_.Send(call()); });
  }
  void Add(const std::string& what, double value) { rows_.push_back({what, value}); }

  void Gather() {
    crowd_->Start();
    std::vector<double> registered, ready;
    for (int i = 0; i < size_.workers; ++i)
      registered.push_back(Time([&] { return crowd_->Register(absl::StrCat("worker-", i)); }));
    for (const Crowd::Member& member : crowd_->members())
      ready.push_back(Time([&] { return GetReady(member.incarnation); }));
    Add("each worker that registers", Mean(registered));
    const double view = ready.back();
    ready.pop_back();
    Add("each that is ready and asks for its first step", Mean(ready));
    Add("the first view and its plan; all are told their units", view);
  }

  CoordinatorActions GetReady(Incarnation worker) {
    CoordinatorActions actions = crowd_->Ready(worker);
    actions.Append(crowd_->Ask(worker, kFirstOfMine, -1));
    return actions;
  }

  // All ask for step next_, then the one before it ends: between, two are in flight. `known`: the
  // plan whose units they have.
  Cost Next() { return Next(sender_.plan()); }
  Cost Next(int64_t known) {
    Cost cost;
    for (const Crowd::Member& member : crowd_->members()) {
      const double micros = Time([&] { return crowd_->Ask(member.incarnation, next_, known); });
      if (cost.bind == 0) {
        cost.bind = micros;
      } else {
        cost.ask.push_back(micros);
      }
    }
    for (const Crowd::Member& member : crowd_->members())
      cost.report.push_back(Time([&] { return crowd_->Report(member.incarnation, next_ - 1); }));
    cost.commit = Time([&] { return crowd_->Commit(next_ - 1); });
    ++next_;
    return cost;
  }

  void Train() {
    std::vector<double> bind, ask, report, commit, all;
    for (next_ = 1; next_ < kEvaluated;) {
      const Cost cost = Next();
      bind.push_back(cost.bind);
      ask.insert(ask.end(), cost.ask.begin(), cost.ask.end());
      report.insert(report.end(), cost.report.begin(), cost.report.end());
      commit.push_back(cost.commit);
      all.push_back(cost.all());
    }
    Add("each BeginStep, median", Quantile(ask, 0.5));
    Add("each BeginStep, p99", Quantile(ask, 0.99));
    Add("each step report, median", Quantile(report, 0.5));
    Add("the BeginStep that binds the step", Quantile(bind, 0.5));
    Add("a step's reports of shards, its end", Quantile(commit, 0.5));
    Add("a step in all", Quantile(all, 0.5));
  }

  void Evaluate() {
    double micros = Next().all();
    for (const auto& [worker, part] : sender_.TakeEvaluations())
      micros += Time([&, worker = worker, part = part] { return crowd_->Evaluated(worker, part); });
    Add("an evaluated step in all", micros);
  }

  void Change() {
    std::vector<Crowd::Member>& members = crowd_->members();
    const double plan = MicrosOf([&] { (void)MakePlan(crowd_->logic().PlanInputAt(next_)); });
    const int64_t known = sender_.plan();
    double micros = Time([&] { return crowd_->Register("late"); });
    micros += Time([&] { return GetReady(members.back().incarnation); });
    const Crowd::Member late = members.back();
    members.pop_back();
    Add("a worker that joins, with whom the next step is bound", micros);
    Add("of this, the plan", plan);
    Add("a step in a new view in all", Next(known).all() + micros);
    members.push_back(late);
    Add("a worker that leaves", Time([&] { return crowd_->Leave(late.incarnation); }));
    Next();
    members.pop_back();
    std::vector<double> died;
    for (int i = 0; i < size_.workers / 100; ++i) {
      died.push_back(Time([&] { return crowd_->Die(members.back().name); }));
      members.pop_back();
    }
    Add("each of one in a hundred workers that die at once", Mean(died));
    Next();
  }

  void Look() {
    std::vector<double> heartbeats;
    for (const Crowd::Member& member : crowd_->members())
      heartbeats.push_back(MicrosOf([&] { crowd_->Heartbeat(member.incarnation); }));
    Add("each heartbeat, median", Quantile(heartbeats, 0.5));
    Add("a look at leases and deadlines, once a second", Time([&] { return crowd_->Tick(); }));
    size_t members = 0;
    Add("the picture for `sdp status`",
        MicrosOf([&] { members = crowd_->logic().status(crowd_->now()).members.size(); }));
    for (const Crowd::Member& member : crowd_->members())
      sender_.Send(crowd_->Ask(member.incarnation, next_, sender_.plan()));
    Add("KiB of memory, two steps in flight", static_cast<double>(BytesInUse() - before_) / 1024);
  }

  Crowd::Size size_;
  const int64_t before_;
  std::unique_ptr<Crowd> crowd_;
  Sender sender_;
  Step next_ = 0;
  std::vector<Row> rows_;
};

void Print(const std::vector<int>& sizes, const std::vector<std::vector<Row>>& tables) {
  std::cout << "| microseconds of processor time |";
  for (const int workers : sizes) std::cout << " " << workers << " workers |";
  std::cout << " order |\n| --- |";
  for (size_t i = 0; i <= sizes.size(); ++i) std::cout << " --- |";
  std::cout << "\n";
  for (size_t row = 0; row < tables.front().size(); ++row) {
    std::cout << "| " << tables.front()[row].what << " |";
    for (const std::vector<Row>& table : tables) {
      const double value = table[row].value;
      std::cout << (value < 100 ? absl::StrFormat(" %.1f |", value)
                                : absl::StrFormat(" %.0f |", value));
    }
    const double growth = tables.back()[row].value / tables.front()[row].value;
    const double more = static_cast<double>(sizes.back()) / sizes.front();
    std::cout << absl::StrFormat(" %.1f |\n", std::log(growth) / std::log(more));
  }
}

int Main(int argc, char** argv) {
  std::vector<int> sizes = {1000, 3000, 10'000};
  Crowd::Size size;
  size.units = 10'000;
  CLI::App app("What a coordinator costs, by the number of workers.", "coordinator_bench");
  app.add_option("--workers", sizes, "numbers of workers, ascending")->capture_default_str();
  app.add_option("--units", size.units, "that are not shared")->capture_default_str();
  app.add_option("--shards", size.shards, "shards")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  std::vector<std::vector<Row>> tables;
  for (const int workers : sizes) {
    size.workers = workers;
    tables.push_back(Measurement(size).Run());
    std::cerr << workers << " workers measured\n";
  }
  std::cout << absl::StrFormat(
      "A coordinator with %d units of %d fragments on %d workers each, and %d shards.\n\n",
      size.units, size.fragments_per_unit, size.holders, size.shards);
  Print(sizes, tables);
  return 0;
}

}  // namespace
}  // namespace sdp

int main(int argc, char** argv) { return sdp::Main(argc, argv); }

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "tests/coordinator/crowd.h"

// What a coordinator does about all of its workers, one after the other, costs it a time that grows
// as their number: eight times as many cost eight times as much, and up to 64 times where somewhere
// a message looks at all of them. Time on the processor and the least of several tries, so a busy
// machine matters little; the bound lies between, with room for caches that do not hold the larger
// crowd.
namespace sdp {
namespace {

constexpr int kWorkers = 400, kMore = 8;
constexpr int kTries = 4;
constexpr double kMost = 24;

// Seconds of each thing that the members do.
using Times = std::map<std::string, double>;

double Seconds(const std::function<void()>& work) {
  const std::clock_t start = std::clock();
  work();
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

class Life {
 public:
  explicit Life(int workers) : workers_(workers), crowd_(SizeOf(workers)) {}

  Times Lead() {
    std::vector<Crowd::Member>& members = crowd_.members();
    crowd_.Start();
    Take("register", [&] {
      for (int i = 0; i < workers_; ++i) crowd_.Register(absl::StrCat("worker-", i));
    });
    Take("get ready", [&] {
      for (const Crowd::Member& member : members) GetReady(member);
    });
    Take("a step", [&] { Train(1); });
    std::vector<Crowd::Member> joined;
    Take("join", [&] { joined = Join(); });
    Take("a step in a new view", [&] { Train(2); });
    members.insert(members.end(), joined.begin(), joined.end());
    Take("leave", [&] {
      for (const Crowd::Member& member : joined) crowd_.Leave(member.incarnation);
    });
    Take("a step after which they are gone", [&] { Train(3); });
    members.resize(static_cast<size_t>(workers_));
    Take("an evaluated step", [&] { Train(kEvaluated); });
    Take("die", [&] { Die(); });
    Take("a step without them", [&] { Train(5); });
    Take("heartbeats", [&] {
      for (int i = 0; i < 10; ++i) {
        for (const Crowd::Member& member : members) crowd_.Heartbeat(member.incarnation);
        crowd_.Tick();
      }
    });
    Take("ask what is waited for", [&] {
      for (int i = 0; i < workers_; ++i) crowd_.logic().WaitingFor();
    });
    return times_;
  }

 private:
  static constexpr Step kEvaluated = 4;

  static Crowd::Size SizeOf(int workers) {
    return {.workers = workers,
            .shards = 4,
            .units = 1000,
            .fragments_per_unit = 2,
            .eval_every = kEvaluated};
  }
  void Take(const std::string& what, const std::function<void()>& work) {
    times_[what] = Seconds(work);
  }

  void GetReady(const Crowd::Member& member) {
    crowd_.Ready(member.incarnation);
    crowd_.Ask(member.incarnation, kFirstOfMine, -1);
  }

  // All ask for the step, so that two are in flight, and finish the one before.
  void Train(Step step) {
    std::vector<std::pair<Incarnation, EvaluationPart>> parts;
    for (const Crowd::Member& member : crowd_.members()) {
      for (const auto& bind : crowd_.Ask(member.incarnation, step, -1).bind_workers) {
        for (const EvaluationPart& part : bind.binding.evaluations)
          parts.emplace_back(bind.worker, part);
      }
    }
    for (const Crowd::Member& member : crowd_.members())
      crowd_.Report(member.incarnation, step - 1);
    crowd_.Commit(step - 1);
    EXPECT_EQ(crowd_.logic().status(crowd_.now()).committed, step - 1);
    EXPECT_EQ(parts.size(), step == kEvaluated ? crowd_.members().size() : 0);
    for (const auto& [worker, part] : parts) crowd_.Evaluated(worker, part);
  }

  // A tenth more workers, which are not asked for before a step is bound with them.
  std::vector<Crowd::Member> Join() {
    std::vector<Crowd::Member>& members = crowd_.members();
    for (int i = 0; i < workers_ / 10; ++i) {
      crowd_.Register(absl::StrCat("late-", i));
      GetReady(members.back());
    }
    const std::vector<Crowd::Member> joined(members.end() - workers_ / 10, members.end());
    members.resize(static_cast<size_t>(workers_));
    return joined;
  }

  void Die() {
    std::vector<Crowd::Member>& members = crowd_.members();
    for (int i = 0; i < workers_ / 10; ++i) {
      crowd_.Die(members.back().name);
      members.pop_back();
    }
  }

  const int workers_;
  Crowd crowd_;
  Times times_;
};

Times LeastOf(int workers) {
  Times least = Life(workers).Lead();
  for (int i = 1; i < kTries; ++i) {
    for (const auto& [what, seconds] : Life(workers).Lead())
      least[what] = std::min(least[what], seconds);
  }
  return least;
}

TEST(ScaleTest, NoCostIsQuadraticInWorkers) {
  const Times few = LeastOf(kWorkers), many = LeastOf(kMore * kWorkers);
  for (const auto& [what, seconds] : many) {
    const double growth = seconds / few.at(what);
    std::printf("%s: %.1f ms, %.1f times that of %d workers\n", what.c_str(), 1e3 * seconds, growth,
                kWorkers);
    EXPECT_LT(growth, kMost) << what;
  }
}

}  // namespace
}  // namespace sdp

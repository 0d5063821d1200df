#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "deploy/cluster/process.h"
#include "tests/end_to_end/train_fixture.h"
#include "tests/faults/growing_lines.h"

namespace sdp {

// A run whose coordinator, shards and workers are processes on hosts of their own, with links
// between them that can be slowed, made lossy and cut while it trains (network namespaces of this
// machine). Skips, and says why, where there can be no such hosts. One at a time of a test program.
// Threads: one. Waits have deadlines; they look again every few milliseconds at what the run has
// written.
class LabFixture : public TrainFixture {
 protected:
  struct Size {
    int shards = 2, workers = 4;
  };

  LabFixture();
  void SetUp() override;
  void TearDown() override;

  // Starts the run, and waits until it has trained some steps. `settings`: section.key=value.
  void Begin(const Size& size, const std::vector<std::string>& settings);
  // Ends the processes, and takes hosts and run away, so that another may begin.
  void Clear();
  // A process of the run, on its host: "coordinator", "shard-0", "worker-3".
  void Start(const std::string& member, const std::vector<std::string>& more = {});
  Process& process(const std::string& member) { return *processes_.at(member); }
  // "h1" is the coordinator's, then come the shards', then the workers'.
  std::string HostOf(const std::string& member) const;

  // Of the lab's tool: Links("cut h2 all"), Links("set h1 to h2 delay=20ms"), Links("heal").
  void Links(const std::string& what) const;
  // `sdp COMMAND RUN` on the coordinator's host.
  Outcome Ask(const std::string& command) const;

  const std::vector<Json>& Lines() { return lines_.Read(); }
  int Workers();  // of the newest line
  // Of a kind; about this worker, where one is named.
  std::vector<Json> Events(const std::string& kind, const std::string& worker = "");

  // Seconds until the condition holds, which it must within `limit`.
  double Await(const std::string& what, absl::Duration limit,
               const std::function<bool()>& condition);
  double AwaitMoreLines(size_t count, absl::Duration limit);
  // The run comes to its end within `limit`, every process ends in order, and the audit finds each
  // sample where it was promised.
  void ExpectEndInOrder(absl::Duration limit);
  // The same once the coordinator is asked to stop.
  void ExpectStopInOrder(absl::Duration limit);

 private:
  std::string Lab(const std::string& words) const;
  void ExpectEnd(absl::Duration limit, const std::string& coordinator);

  Size size_;
  std::vector<std::string> settings_;
  std::map<std::string, std::unique_ptr<Process>> processes_;
  GrowingLines lines_, events_;
};

}  // namespace sdp

#pragma once

#include <prometheus/metric_family.h>

#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "proto/coordinator.pb.h"
#include "proto/status.pb.h"

namespace sdp {

// The metrics of one scrape, in the order in which they were first given. Names begin with "sdp_",
// have their unit (seconds, bytes, ...) at the end, and "_total" behind it if they only grow: what
// `promtool check metrics` asks for.
class Families {
 public:
  using Labels = std::vector<std::pair<std::string, std::string>>;

  // One more sample of the family `name`, which the first one makes.
  void Gauge(const std::string& name, const std::string& help, double value, Labels labels = {});
  void Counter(const std::string& name, const std::string& help, double value, Labels labels = {});

  std::vector<prometheus::MetricFamily> Take() && { return std::move(families_); }

 private:
  prometheus::ClientMetric& Add(const std::string& name, const std::string& help,
                                prometheus::MetricType type, Labels labels);

  std::vector<prometheus::MetricFamily> families_;
};

// What every role tells of its process: under Prometheus' usual names where it has one.
void AddProcess(const proto::ProcessMemory& memory, Families* families);
// sdp_allocated_kind_bytes, of a worker.
void AddLedger(const proto::MemoryLedger& ledger, Families* families);

// This process's memory, now.
proto::ProcessMemory MemoryOfThisProcess();

}  // namespace sdp

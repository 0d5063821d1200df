#include "common/metrics/families.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "absl/time/clock.h"
#include "common/base/allocated.h"
#include "common/control/convert.h"
#include "common/control/heartbeats.h"

namespace sdp {
namespace {

double CpuSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace

prometheus::ClientMetric& Families::Add(const std::string& name, const std::string& help,
                                        prometheus::MetricType type, Labels labels) {
  auto family = std::find_if(families_.begin(), families_.end(),
                             [&](const auto& known) { return known.name == name; });
  if (family == families_.end()) {
    families_.push_back({name, help, type, {}});
    family = families_.end() - 1;
  }
  prometheus::ClientMetric& metric = family->metric.emplace_back();
  for (auto& [key, value] : labels) metric.label.push_back({key, std::move(value)});
  return metric;
}

void Families::Gauge(const std::string& name, const std::string& help, double value,
                     Labels labels) {
  Add(name, help, prometheus::MetricType::Gauge, std::move(labels)).gauge.value = value;
}

void Families::Counter(const std::string& name, const std::string& help, double value,
                       Labels labels) {
  Add(name, help, prometheus::MetricType::Counter, std::move(labels)).counter.value = value;
}

void AddProcess(const proto::ProcessMemory& memory, Families* families) {
  families->Counter("process_cpu_seconds_total", "Processor time of the process.", CpuSeconds());
  families->Gauge("process_resident_memory_bytes", "Resident memory of the process.",
                  static_cast<double>(memory.resident_bytes()));
  families->Gauge("sdp_process_resident_peak_bytes",
                  "The most resident memory that the process has had (VmHWM).",
                  static_cast<double>(memory.resident_peak_bytes()));
  families->Gauge("sdp_allocated_bytes",
                  "Memory of tensors and buffers now, of a worker on a GPU there.",
                  static_cast<double>(memory.allocated_bytes()));
  families->Gauge("sdp_allocated_peak_bytes", "The most memory that tensors and buffers have had.",
                  static_cast<double>(memory.allocated_peak_bytes()));
}

void AddLedger(const proto::MemoryLedger& message, Families* families) {
  const MemoryLedger ledger = FromProto(message);
  for (size_t kind = 0; kind < kMemoryKinds; ++kind) {
    families->Gauge("sdp_worker_allocated_kind_bytes",
                    "Memory of tensors and buffers by what they are for, as the newest step ended.",
                    static_cast<double>(ledger.now[kind]), {{"kind", kMemoryKindNames[kind]}});
  }
}

proto::ProcessMemory MemoryOfThisProcess() {
  proto::ProcessMemory memory;
  memory.set_resident_bytes(ResidentMemoryBytes());
  memory.set_resident_peak_bytes(PeakMemoryBytes());
  const AllocatedBytes allocated = Allocated();
  memory.set_allocated_bytes(allocated.now);
  memory.set_allocated_peak_bytes(allocated.peak);
  return memory;
}

}  // namespace sdp

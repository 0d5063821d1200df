#include "common/base/allocated.h"

#include "common/base/mutex.h"

namespace sdp {
namespace {

// Never destroyed: buffers may be freed after main.
Mutex& TheMutex() {
  static Mutex* const mutex = new Mutex;
  return *mutex;
}

struct Counts {
  AllocatedBytes bytes;
  MemoryLedger ledger;

  void RestartPeak() {
    bytes.peak = bytes.now;
    ledger.peak = ledger.now;
  }
};
constinit std::array<Counts, 2> counts;  // by place; guarded by it

Counts& Of(MemoryPlace place) { return counts[static_cast<size_t>(place)]; }

constinit thread_local MemoryKind current_kind = MemoryKind::kOther;

size_t Index(MemoryKind kind) { return static_cast<size_t>(kind); }

}  // namespace

AllocatedBytes Allocated(MemoryPlace place) {
  MutexLock lock(&TheMutex());
  return Of(place).bytes;
}

MemoryLedger AllocatedByKind(MemoryPlace place) {
  MutexLock lock(&TheMutex());
  return Of(place).ledger;
}

void CountAllocated(MemoryKind kind, int64_t added, MemoryPlace place) {
  MutexLock lock(&TheMutex());
  Counts& there = Of(place);
  there.bytes.now += added;
  there.ledger.now[Index(kind)] += added;
  if (there.bytes.now > there.bytes.peak) there.RestartPeak();
}

void CountFreed(MemoryKind kind, int64_t freed, MemoryPlace place) {
  MutexLock lock(&TheMutex());
  Counts& there = Of(place);
  there.bytes.now -= freed;
  there.ledger.now[Index(kind)] -= freed;
}

void RestartAllocatedPeak() {
  MutexLock lock(&TheMutex());
  for (Counts& there : counts) there.RestartPeak();
}

MemoryScope::MemoryScope(MemoryKind kind) : outer_(current_kind) { current_kind = kind; }
MemoryScope::~MemoryScope() { current_kind = outer_; }
MemoryKind MemoryScope::Current() { return current_kind; }

}  // namespace sdp

#include "common/base/allocated.h"

#include "common/base/mutex.h"

namespace sdp {
namespace {

// Never destroyed: buffers may be freed after main.
Mutex& TheMutex() {
  static Mutex* const mutex = new Mutex;
  return *mutex;
}
constinit AllocatedBytes bytes;  // Guarded by it, as is:
constinit MemoryLedger ledger;

constinit thread_local MemoryKind current_kind = MemoryKind::kOther;

size_t Index(MemoryKind kind) { return static_cast<size_t>(kind); }

}  // namespace

AllocatedBytes Allocated() {
  MutexLock lock(&TheMutex());
  return bytes;
}

MemoryLedger AllocatedByKind() {
  MutexLock lock(&TheMutex());
  return ledger;
}

void CountAllocated(MemoryKind kind, int64_t added) {
  MutexLock lock(&TheMutex());
  bytes.now += added;
  ledger.now[Index(kind)] += added;
  if (bytes.now <= bytes.peak) return;
  bytes.peak = bytes.now;
  ledger.peak = ledger.now;
}

void CountFreed(MemoryKind kind, int64_t freed) {
  MutexLock lock(&TheMutex());
  bytes.now -= freed;
  ledger.now[Index(kind)] -= freed;
}

void RestartAllocatedPeak() {
  MutexLock lock(&TheMutex());
  bytes.peak = bytes.now;
  ledger.peak = ledger.now;
}

MemoryScope::MemoryScope(MemoryKind kind) : outer_(current_kind) { current_kind = kind; }
MemoryScope::~MemoryScope() { current_kind = outer_; }
MemoryKind MemoryScope::Current() { return current_kind; }

}  // namespace sdp

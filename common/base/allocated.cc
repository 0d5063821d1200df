#include "common/base/allocated.h"

#include <mutex>

namespace sdp {
namespace {

// std::mutex, since buffers may be made before main and freed after it: it needs no construction.
constinit std::mutex mutex;
constinit AllocatedBytes bytes;  // Guarded by mutex, as is:
constinit MemoryLedger ledger;

constinit thread_local MemoryKind current_kind = MemoryKind::kOther;

size_t Index(MemoryKind kind) { return static_cast<size_t>(kind); }

}  // namespace

AllocatedBytes Allocated() {
  const std::lock_guard<std::mutex> lock(mutex);
  return bytes;
}

MemoryLedger AllocatedByKind() {
  const std::lock_guard<std::mutex> lock(mutex);
  return ledger;
}

void CountAllocated(MemoryKind kind, int64_t added) {
  const std::lock_guard<std::mutex> lock(mutex);
  bytes.now += added;
  ledger.now[Index(kind)] += added;
  if (bytes.now <= bytes.peak) return;
  bytes.peak = bytes.now;
  ledger.peak = ledger.now;
}

void CountFreed(MemoryKind kind, int64_t freed) {
  const std::lock_guard<std::mutex> lock(mutex);
  bytes.now -= freed;
  ledger.now[Index(kind)] -= freed;
}

void RestartAllocatedPeak() {
  const std::lock_guard<std::mutex> lock(mutex);
  bytes.peak = bytes.now;
  ledger.peak = ledger.now;
}

MemoryScope::MemoryScope(MemoryKind kind) : outer_(current_kind) { current_kind = kind; }
MemoryScope::~MemoryScope() { current_kind = outer_; }
MemoryKind MemoryScope::Current() { return current_kind; }

}  // namespace sdp

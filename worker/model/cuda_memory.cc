#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "c10/cuda/CUDACachingAllocator.h"
#include "common/base/allocated.h"
#include "worker/model/counting_allocator.h"

namespace sdp {
namespace {

namespace allocator = c10::cuda::CUDACachingAllocator;

// Follows torch's allocator, which tells of every block. Threads: the allocator calls with its
// device's lock held, on the thread that allocates, and this process uses one GPU.
class BlocksOnGpu {
 public:
  void Follow(const allocator::TraceEntry& event) {
    if (event.action_ == allocator::TraceEntry::ALLOC) {
      const Block block = {static_cast<int64_t>(event.size_), MemoryScope::Current()};
      blocks_[event.addr_] = block;
      CountAllocated(block.kind, block.bytes, MemoryPlace::kGpu);
    } else if (event.action_ == allocator::TraceEntry::FREE_COMPLETED) {
      // When the streams that used it are done with it; from then on another tensor may have it.
      const auto found = blocks_.find(event.addr_);
      if (found == blocks_.end()) return;  // from before we followed
      CountFreed(found->second.kind, found->second.bytes, MemoryPlace::kGpu);
      blocks_.erase(found);
    }
  }

 private:
  struct Block {
    int64_t bytes = 0;
    MemoryKind kind = MemoryKind::kOther;
  };
  absl::flat_hash_map<size_t, Block> blocks_;  // by address
};

}  // namespace

absl::Status CountTensorsOnGpu() {
  const std::string name = allocator::name();
  if (name != "native") {
    return absl::FailedPreconditionError(
        absl::StrCat("worker.device = \"cuda\": LibTorch is to use the allocator \"", name,
                     "\", whose memory cannot be counted; leave \"backend\" out of "
                     "PYTORCH_ALLOC_CONF and PYTORCH_CUDA_ALLOC_CONF"));
  }
  // Never destroyed: tensors may outlive everything else.
  static BlocksOnGpu* const blocks = [] {
    auto* made = new BlocksOnGpu;
    allocator::attachAllocatorTraceTracker(
        [made](const allocator::TraceEntry& event) { made->Follow(event); });
    return made;
  }();
  static_cast<void>(blocks);
  return absl::OkStatus();
}

}  // namespace sdp

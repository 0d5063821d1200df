#include "worker/model/counting_allocator.h"

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "c10/core/CPUAllocator.h"
#include "common/base/allocated.h"

namespace sdp {
namespace {

// In front of each block, since torch does not tell when it frees.
struct Header {
  int64_t bytes = 0;
  MemoryKind kind = MemoryKind::kOther;
};
// As large as torch's alignment, so that the block behind it is aligned as before.
constexpr size_t kHeaderBytes = 64;
static_assert(sizeof(Header) <= kHeaderBytes);

void Free(void* data) {
  if (data == nullptr) return;
  char* const block = static_cast<char*>(data) - kHeaderBytes;
  Header header;
  std::memcpy(&header, block, sizeof(header));
  c10::GetDefaultCPUAllocator()->raw_deallocate(block);
  CountFreed(header.kind, header.bytes);
}

class CountingAllocator : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t size) override {
    if (size == 0) return {nullptr, nullptr, &Free, c10::Device(c10::DeviceType::CPU)};
    char* const block =
        static_cast<char*>(c10::GetDefaultCPUAllocator()->raw_allocate(size + kHeaderBytes));
    const Header header = {static_cast<int64_t>(size), MemoryScope::Current()};
    std::memcpy(block, &header, sizeof(header));
    CountAllocated(header.kind, header.bytes);
    char* const data = block + kHeaderBytes;
    return {data, data, &Free, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &Free; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};

}  // namespace

void CountTensors() {
  // Never destroyed: tensors may outlive everything else.
  static CountingAllocator* const allocator = [] {
    auto* made = new CountingAllocator;
    constexpr uint8_t kHighest = 255;
    c10::SetCPUAllocator(made, kHighest);
    return made;
  }();
  static_cast<void>(allocator);
}

}  // namespace sdp

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

#include "absl/types/span.h"
#include "common/base/allocated.h"

namespace sdp {

// A flat vector [n] f32, 64-byte aligned, uninitialised at birth. Move-only: gradients and values
// are large, so each copy is written out (Clone), and their memory is counted (allocated.h).
// Threads: as a plain array.
class FloatBuffer {
 public:
  FloatBuffer() = default;
  explicit FloatBuffer(int64_t size)
      : data_(static_cast<float*>(
                  ::operator new (static_cast<size_t>(size) * sizeof(float), std::align_val_t{64})),
              Free{size * static_cast<int64_t>(sizeof(float))}),
        size_(size) {
    CountAllocated(MemoryKind::kCommunication, bytes());
  }
  FloatBuffer(FloatBuffer&& other) noexcept
      : data_(std::move(other.data_)), size_(std::exchange(other.size_, 0)) {}
  FloatBuffer& operator=(FloatBuffer&& other) noexcept {
    data_ = std::move(other.data_);
    size_ = std::exchange(other.size_, 0);
    return *this;
  }

  static FloatBuffer Zeros(int64_t size) {
    FloatBuffer buffer(size);
    std::memset(buffer.data(), 0, static_cast<size_t>(buffer.bytes()));
    return buffer;
  }
  FloatBuffer Clone() const {
    FloatBuffer copy(size_);
    if (size_ > 0) std::memcpy(copy.data(), data(), static_cast<size_t>(bytes()));
    return copy;
  }

  float* data() { return data_.get(); }
  const float* data() const { return data_.get(); }
  int64_t size() const { return size_; }
  int64_t bytes() const { return size_ * static_cast<int64_t>(sizeof(float)); }
  bool empty() const { return size_ == 0; }
  absl::Span<float> span() { return {data(), static_cast<size_t>(size_)}; }
  absl::Span<const float> span() const { return {data(), static_cast<size_t>(size_)}; }

 private:
  struct Free {
    // No initializer at the member: it would not count yet where unique_ptr asks.
    Free() : bytes(0) {}
    explicit Free(int64_t size_bytes) : bytes(size_bytes) {}
    int64_t bytes;
    void operator()(float* data) const {
      ::operator delete (data, std::align_val_t{64});
      CountFreed(MemoryKind::kCommunication, bytes);
    }
  };
  std::unique_ptr<float, Free> data_;
  int64_t size_ = 0;
};

// An immutable published version of a fragment. Whoever sends it holds a reference.
using SharedValue = std::shared_ptr<const FloatBuffer>;

}  // namespace sdp

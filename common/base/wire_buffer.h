#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/types/span.h"
#include "common/base/dtype.h"
#include "common/base/float_buffer.h"

namespace sdp {

// A fragment's numbers in the type in which they travel, [n] f32 or bf16: what a worker receives
// and sends. It is never widened, so a bf16 worker has no second, f32 copy of a weight or a
// retained gradient. The memory is a FloatBuffer's: aligned alike, and counted wherever those are.
// Move-only, uninitialised at birth. Threads: as a plain array.
class WireBuffer {
 public:
  WireBuffer() = default;
  WireBuffer(WireType type, int64_t size)
      : storage_((size * BytesPerElement(type) + 3) / 4), type_(type), size_(size) {}
  // What is f32 already. Implicit: the two are the same thing then.
  WireBuffer(FloatBuffer f32)  // NOLINT(google-explicit-constructor)
      : storage_(std::move(f32)), size_(storage_.size()) {}
  WireBuffer(WireBuffer&& other) noexcept
      : storage_(std::move(other.storage_)),
        type_(other.type_),
        size_(std::exchange(other.size_, 0)) {}
  WireBuffer& operator=(WireBuffer&& other) noexcept {
    storage_ = std::move(other.storage_);
    type_ = other.type_;
    size_ = std::exchange(other.size_, 0);
    return *this;
  }

  // `values`, rounded where the type is bf16.
  static WireBuffer Rounded(WireType type, absl::Span<const float> values);
  // As f32: itself, without a copy, if it is f32.
  FloatBuffer Widened() &&;
  WireBuffer Clone() const;

  WireType type() const { return type_; }
  int64_t size() const { return size_; }  // elements
  int64_t bytes() const { return size_ * BytesPerElement(type_); }
  bool empty() const { return size_ == 0; }
  char* data() { return reinterpret_cast<char*>(storage_.data()); }
  const char* data() const { return reinterpret_cast<const char*>(storage_.data()); }
  // Precondition: the type is f32.
  absl::Span<const float> floats() const;
  // Precondition: the type is bf16.
  absl::Span<const uint16_t> bf16() const;

 private:
  FloatBuffer storage_;
  WireType type_ = WireType::kF32;
  int64_t size_ = 0;
};

// A contribution on its way to a shard: kept until the shard has it, shared with what is being
// sent.
using SharedWire = std::shared_ptr<const WireBuffer>;

}  // namespace sdp

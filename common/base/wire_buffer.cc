#include "common/base/wire_buffer.h"

#include <cassert>
#include <cstring>

namespace sdp {

WireBuffer WireBuffer::Rounded(WireType type, absl::Span<const float> values) {
  WireBuffer buffer(type, static_cast<int64_t>(values.size()));
  if (values.empty()) return buffer;
  if (type == WireType::kF32) {
    std::memcpy(buffer.data(), values.data(), values.size() * sizeof(float));
  } else {
    ToBf16(values, {reinterpret_cast<uint16_t*>(buffer.data()), values.size()});
  }
  return buffer;
}

FloatBuffer WireBuffer::Widened() && {
  if (type_ == WireType::kF32) {
    size_ = 0;
    return std::move(storage_);
  }
  FloatBuffer wide(size_);
  FromBf16(bf16(), wide.span());
  return wide;
}

WireBuffer WireBuffer::Clone() const {
  WireBuffer copy;
  copy.storage_ = storage_.Clone();
  copy.type_ = type_;
  copy.size_ = size_;
  return copy;
}

absl::Span<const float> WireBuffer::floats() const {
  assert(type_ == WireType::kF32);
  return storage_.span();
}

absl::Span<const uint16_t> WireBuffer::bf16() const {
  assert(type_ == WireType::kBf16);
  return {reinterpret_cast<const uint16_t*>(storage_.data()), static_cast<size_t>(size_)};
}

}  // namespace sdp

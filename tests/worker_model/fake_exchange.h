#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/allocated.h"
#include "common/base/ids.h"
#include "common/base/wire_buffer.h"
#include "common/model/layout.h"
#include "gtest/gtest.h"
#include "worker/logic/local_model.h"

namespace sdp {

// The rest of the worker, for tests of a LocalModel: hands out the given values and records what
// happens, in order. Takes always succeed unless a failure was set. Threads: confined to one.
class FakeExchange : public Exchange {
 public:
  enum class Kind { kWant, kTake, kBackward, kReleased, kGradient };
  struct Event {
    Kind kind;
    int id = 0;  // of the unit or fragment
    bool operator==(const Event&) const = default;
  };

  // `values` by fragment, [size] each; they stay as they are, so tasks can be repeated. They travel
  // as `type`.
  FakeExchange(const Layout& layout, std::vector<FloatBuffer> values,
               WireType type = WireType::kF32)
      : layout_(layout), type_(type), values_(std::move(values)), gradients_(values_.size()) {}

  void FailTake(UnitId unit, absl::Status status) { failures_[unit] = std::move(status); }

  void Want(UnitId unit) override { events_.push_back({Kind::kWant, unit.value()}); }
  absl::StatusOr<std::vector<WireBuffer>> Take(UnitId unit) override {
    events_.push_back({Kind::kTake, unit.value()});
    if (const auto failure = failures_.find(unit); failure != failures_.end())
      return failure->second;
    std::vector<WireBuffer> fragments;
    for (const FragmentId id : layout_.block(unit))
      fragments.push_back(WireBuffer::Rounded(type_, value(id).span()));
    return fragments;
  }
  void BackwardBegins() override {
    events_.push_back({Kind::kBackward});
    bytes_at_backward_ = Allocated().now;
  }
  void Released(UnitId unit) override { events_.push_back({Kind::kReleased, unit.value()}); }
  void Gradient(FragmentId fragment, WireBuffer gradient) override {
    EXPECT_EQ(gradient.type(), type_);
    events_.push_back({Kind::kGradient, fragment.value()});
    gradients_[static_cast<size_t>(fragment.value())] = std::move(gradient).Widened();
  }

  FloatBuffer& value(FragmentId id) { return values_[static_cast<size_t>(id.value())]; }
  // The last one handed out, as f32; none: never.
  const std::optional<FloatBuffer>& gradient(FragmentId id) const {
    return gradients_[static_cast<size_t>(id.value())];
  }
  const std::vector<Event>& events() const { return events_; }
  // What the process had allocated when the last backward pass began.
  int64_t bytes_at_backward() const { return bytes_at_backward_; }
  int Count(Kind kind, int id) const {
    int count = 0;
    for (const Event& event : events_) count += event == Event{kind, id};
    return count;
  }
  int Count(Kind kind) const {
    int count = 0;
    for (const Event& event : events_) count += event.kind == kind;
    return count;
  }
  void Forget() {
    events_.clear();
    for (std::optional<FloatBuffer>& gradient : gradients_) gradient.reset();
  }

 private:
  const Layout& layout_;
  const WireType type_;
  int64_t bytes_at_backward_ = 0;
  std::vector<FloatBuffer> values_;
  std::vector<std::optional<FloatBuffer>> gradients_;
  absl::flat_hash_map<UnitId, absl::Status> failures_;
  std::vector<Event> events_;
};

}  // namespace sdp

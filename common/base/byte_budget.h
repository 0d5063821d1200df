#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

namespace sdp {

// ByteBudget bounds what is held on behalf of one peer, and with a parent, of all together. What is
// taken is a Hold, which gives it back when it goes, wherever that is. Threads: any.
class ByteBudget : public std::enable_shared_from_this<ByteBudget> {
 public:
  // Bytes taken; none when it is empty. Move-only.
  class Hold {
   public:
    Hold() = default;
    Hold(Hold&& other) noexcept
        : budget_(std::move(other.budget_)), bytes_(std::exchange(other.bytes_, 0)) {}
    Hold& operator=(Hold&& other) noexcept {
      std::swap(budget_, other.budget_);
      std::swap(bytes_, other.bytes_);
      return *this;
    }
    ~Hold() {
      if (budget_ != nullptr) budget_->Give(bytes_);
    }
    explicit operator bool() const { return budget_ != nullptr; }

   private:
    friend class ByteBudget;
    Hold(std::shared_ptr<ByteBudget> budget, int64_t bytes)
        : budget_(std::move(budget)), bytes_(bytes) {}
    std::shared_ptr<ByteBudget> budget_;
    int64_t bytes_ = 0;
  };

  static std::shared_ptr<ByteBudget> Make(int64_t limit,
                                          std::shared_ptr<ByteBudget> parent = nullptr) {
    return std::shared_ptr<ByteBudget>(new ByteBudget(limit, std::move(parent)));
  }

  // Empty if it would be more than the limit, here or at the parent. A budget of which nothing is
  // taken gives any one piece, so that no limit can stop everything.
  Hold Take(int64_t bytes) {
    if (!Add(bytes)) return Hold();
    return Hold(shared_from_this(), bytes);
  }
  int64_t used() const { return used_; }
  int64_t limit() const { return limit_; }

 private:
  ByteBudget(int64_t limit, std::shared_ptr<ByteBudget> parent)
      : limit_(limit), parent_(std::move(parent)) {}

  bool Add(int64_t bytes) {
    const int64_t before = used_.fetch_add(bytes);
    if ((before == 0 || before + bytes <= limit_) && (parent_ == nullptr || parent_->Add(bytes)))
      return true;
    used_ -= bytes;
    return false;
  }
  void Give(int64_t bytes) {
    used_ -= bytes;
    if (parent_ != nullptr) parent_->Give(bytes);
  }

  const int64_t limit_;
  const std::shared_ptr<ByteBudget> parent_;
  std::atomic<int64_t> used_ = 0;
};

}  // namespace sdp

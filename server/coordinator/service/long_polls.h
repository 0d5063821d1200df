#pragma once

#include <grpcpp/support/server_callback.h>

#include <map>
#include <utility>
#include <vector>

#include "absl/time/time.h"

namespace sdp {

// A question whose answer is not known yet. The reactor's Finish, called once, ends it; a caller
// that has gone does no harm.
template <typename Response>
struct Pending {
  grpc::ServerUnaryReactor* reactor = nullptr;
  Response* response = nullptr;                   // the reactor's, until Finish
  absl::Time answer_by = absl::InfiniteFuture();  // before the caller's deadline
};

// Pending questions by what they ask about. A caller that asks again may have several. Threads:
// confined to one.
template <typename Key, typename Response>
class LongPolls {
 public:
  void Add(const Key& key, const Pending<Response>& pending) {
    pending_.emplace(key, pending);
    due_.emplace(pending.answer_by, key);
  }

  // Those who asked about `key`; they are the caller's to finish, as below.
  std::vector<Pending<Response>> Take(const Key& key) {
    std::vector<Pending<Response>> taken;
    const auto [first, last] = pending_.equal_range(key);
    for (auto it = first; it != last; ++it) taken.push_back(it->second);
    pending_.erase(first, last);
    return taken;
  }
  // Those whose answer_by has come.
  std::vector<Pending<Response>> TakeDue(absl::Time now) {
    std::vector<Pending<Response>> taken;
    for (; !due_.empty() && due_.begin()->first <= now; due_.erase(due_.begin())) {
      const auto [first, last] = pending_.equal_range(due_.begin()->second);
      for (auto it = first; it != last;) {
        if (it->second.answer_by > now) {
          ++it;
          continue;
        }
        taken.push_back(it->second);
        it = pending_.erase(it);
      }
    }
    return taken;
  }
  std::vector<Pending<Response>> TakeAll() { return TakeDue(absl::InfiniteFuture()); }

 private:
  std::multimap<Key, Pending<Response>> pending_;
  std::multimap<absl::Time, Key> due_;  // of questions that were taken too, until then
};

}  // namespace sdp

#pragma once

#include <grpcpp/support/server_callback.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/mutex.h"
#include "common/rpc/event_loop.h"
#include "proto/status.pb.h"

namespace sdp {

// WatchStatus of a role (proto/status.proto): a status at once, then whenever anything but an age
// has changed, at most every interval. One message is under way at a time, and what has changed
// meanwhile is one change: a caller that reads slowly costs nothing but its call.
// Threads: Watch from any; the rest on `loop`, which may stop before all calls are over.
template <typename Status>
class StatusStreams {
 public:
  static constexpr int kMostWatchers = 16;
  static constexpr absl::Duration kLeastInterval = absl::Milliseconds(200);

  // The status is made on `loop`. `without_ages` clears what changes though nothing happens.
  using Make = std::function<Status()>;
  using WithoutAges = std::function<void(Status*)>;

  StatusStreams(EventLoop* loop, WithoutAges without_ages)
      : loop_(loop), without_ages_(std::move(without_ages)) {}

  // What a callback method returns. The stream ends when the caller or the server ends it.
  grpc::ServerWriteReactor<Status>* Watch(const proto::WatchOptions& options, Make make) {
    const absl::Duration wanted = absl::Seconds(options.interval_sec());
    const absl::Duration interval =
        options.interval_sec() > 0 ? std::max(wanted, kLeastInterval) : absl::Seconds(1);
    auto* stream = new Stream(this, interval, std::move(make));
    if (watchers_->fetch_add(1) >= kMostWatchers) {
      stream->Refuse();
    } else {
      stream->Begin();
    }
    return stream;
  }

 private:
  class Stream final : public grpc::ServerWriteReactor<Status> {
   public:
    Stream(StatusStreams* streams, absl::Duration interval, Make make)
        : loop_(streams->loop_),
          watchers_(streams->watchers_),
          without_ages_(streams->without_ages_),
          interval_(interval),
          make_(std::move(make)) {}

    void Refuse() {
      this->Finish({grpc::StatusCode::RESOURCE_EXHAUSTED, "sixteen watch this status already"});
    }
    void Begin() {
      loop_->Post([self = self_] { Look(self); });
    }

    void OnWriteDone(bool ok) override {
      if (!ok) return Ended();
      loop_->PostAt(absl::Now() + interval_, [self = self_] { Look(self); });
    }
    void OnCancel() override { Ended(); }
    void OnDone() override {
      {
        MutexLock lock(&self_->mutex);
        self_->stream = nullptr;
      }
      watchers_->fetch_sub(1);
      delete this;
    }

   private:
    // The way from the loop to this object, which may be gone when the loop comes to it.
    struct Link {
      explicit Link(Stream* to) : stream(to) {}
      Mutex mutex;
      Stream* stream ABSL_GUARDED_BY(mutex);
    };

    static void Look(const std::shared_ptr<Link>& self) {
      MutexLock lock(&self->mutex);
      if (self->stream == nullptr || self->stream->finished_) return;
      self->stream->WriteIfChanged();
    }

    // On the loop, with the link's mutex held: so this object lives.
    void WriteIfChanged() {
      Status now = make_();
      Status compared = now;
      without_ages_(&compared);
      std::string text = compared.SerializeAsString();
      if (text == written_) {
        return loop_->PostAt(absl::Now() + interval_, [self = self_] { Look(self); });
      }
      written_ = std::move(text);
      status_ = std::move(now);
      this->StartWrite(&status_);
    }
    void Ended() {
      {
        MutexLock lock(&self_->mutex);
        if (std::exchange(finished_, true)) return;
      }
      this->Finish(grpc::Status::OK);
    }

    EventLoop* const loop_;
    const std::shared_ptr<std::atomic<int>> watchers_;
    const WithoutAges without_ages_;
    const absl::Duration interval_;
    const Make make_;
    std::string written_;  // the newest one written, without ages
    Status status_;        // gRPC's while it is written
    bool finished_ = false;
    const std::shared_ptr<Link> self_ = std::make_shared<Link>(this);
  };

  EventLoop* const loop_;
  const WithoutAges without_ages_;
  const std::shared_ptr<std::atomic<int>> watchers_ = std::make_shared<std::atomic<int>>(0);
};

}  // namespace sdp

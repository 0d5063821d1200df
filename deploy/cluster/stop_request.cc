#include "deploy/cluster/stop_request.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <utility>

namespace sdp {

StopRequest::StopRequest() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

StopRequest::~StopRequest() {
  if (thread_.joinable()) thread_.join();
  close(fd_);
}

void StopRequest::Start(std::function<absl::Status()> call) {
  started_ = true;
  thread_ = std::thread([this, call = std::move(call)] {
    result_ = call();
    eventfd_write(fd_, 1);
  });
}

absl::Status StopRequest::Take() {
  thread_.join();
  eventfd_t ignored;
  eventfd_read(fd_, &ignored);
  return result_;
}

}  // namespace sdp

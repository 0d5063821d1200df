#include "worker/service/worker_board.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sdp {

WorkerBoard::WorkerBoard(std::string name) {
  MutexLock lock(&mutex_);
  status_.set_name(std::move(name));
  status_.set_step(-1);
  status_.set_phase("starting");
}

void WorkerBoard::SetAddresses(const std::string& address, const std::string& metrics) {
  MutexLock lock(&mutex_);
  status_.set_address(address);
  status_.set_metrics_address(metrics);
}

std::string WorkerBoard::address() const {
  MutexLock lock(&mutex_);
  return status_.address();
}

std::string WorkerBoard::metrics_address() const {
  MutexLock lock(&mutex_);
  return status_.metrics_address();
}

void WorkerBoard::Begin(absl::Time now) {
  MutexLock lock(&mutex_);
  status_.mutable_totals()->set_lives(status_.totals().lives() + 1);
  hung_up_ = now;
}

void WorkerBoard::Count(const StepReport& report) {
  MutexLock lock(&mutex_);
  proto::WorkerStatus::Totals* const totals = status_.mutable_totals();
  totals->set_steps(totals->steps() + 1);
  totals->set_loss_terms(totals->loss_terms() + report.terms);
  totals->set_pulled_bytes(totals->pulled_bytes() + report.pulled_bytes);
  totals->set_pushed_bytes(totals->pushed_bytes() + report.pushed_bytes);
  totals->set_pull_sec(totals->pull_sec() + absl::ToDoubleSeconds(report.pull));
  totals->set_forward_sec(totals->forward_sec() + absl::ToDoubleSeconds(report.forward));
  totals->set_backward_sec(totals->backward_sec() + absl::ToDoubleSeconds(report.backward));
  totals->set_push_sec(totals->push_sec() + absl::ToDoubleSeconds(report.push));
}

void WorkerBoard::HangUp(proto::WorkerStatus status, absl::Time now) {
  MutexLock lock(&mutex_);
  status.set_name(status_.name());
  status.set_address(status_.address());
  status.set_metrics_address(status_.metrics_address());
  *status.mutable_totals() = status_.totals();
  status_ = std::move(status);
  hung_up_ = now;
}

proto::WorkerStatus WorkerBoard::Status(absl::Time now) const {
  MutexLock lock(&mutex_);
  proto::WorkerStatus status = status_;
  if (hung_up_ < now) status.set_snapshot_age_sec(absl::ToDoubleSeconds(now - hung_up_));
  return status;
}

absl::Status WorkerBoard::Alive(absl::Time now) const {
  MutexLock lock(&mutex_);
  if (now - hung_up_ < kHangs) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat(status_.name(), "'s loop hangs for ",
                   absl::FormatDuration(absl::Trunc(now - hung_up_, absl::Seconds(1)))));
}

absl::Status WorkerBoard::Ready(absl::Time now) const {
  if (const absl::Status alive = Alive(now); !alive.ok()) return alive;
  MutexLock lock(&mutex_);
  if (status_.ready()) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(
      status_.name(), ": ",
      status_.waits_size() > 0 ? absl::StrCat("waits for ", status_.waits(0).for_what())
                               : status_.phase()));
}

}  // namespace sdp

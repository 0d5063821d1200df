#include "server/coordinator/logic/roster.h"

#include <utility>

namespace sdp {

WorkerState& Roster::Add(const WorkerRegistration& registration, Incarnation incarnation,
                         absl::Time now) {
  WorkerState& worker = by_name_[registration.name];
  worker.registration = registration;
  worker.incarnation = incarnation;
  worker.heard = now;
  by_incarnation_[incarnation] = &worker;
  return worker;
}

WorkerState Roster::Erase(const std::string& name) {
  auto node = by_name_.extract(name);
  Count(node.mapped(), -1);
  by_incarnation_.erase(node.mapped().incarnation);
  return std::move(node.mapped());
}

WorkerState* Roster::Find(Incarnation incarnation) {
  const auto found = by_incarnation_.find(incarnation);
  return found == by_incarnation_.end() ? nullptr : found->second;
}

const WorkerState* Roster::Find(Incarnation incarnation) const {
  return const_cast<Roster*>(this)->Find(incarnation);
}

WorkerState* Roster::Find(const std::string& name) {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &found->second;
}

const WorkerState* Roster::Find(const std::string& name) const {
  return const_cast<Roster*>(this)->Find(name);
}

void Roster::SetReady(WorkerState& worker) {
  Count(worker, -1);
  worker.ready = true;
  Count(worker, 1);
}

void Roster::SetLeaving(WorkerState& worker, bool leaving) {
  Count(worker, -1);
  worker.leaving = leaving;
  Count(worker, 1);
}

void Roster::Count(const WorkerState& worker, int sign) {
  if (worker.ready) ready_ += sign;
  if (worker.ready && !worker.leaving) staying_ += sign;
}

}  // namespace sdp

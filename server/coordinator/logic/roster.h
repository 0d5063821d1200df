#pragma once

#include <cstddef>
#include <map>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "common/base/ids.h"
#include "server/coordinator/logic/states.h"

namespace sdp {

// The workers that are in the run, by name and by incarnation, and how many of them can train: with
// thousands of members no message may cost a look at all of them. Pointers and references to a
// worker hold until it is erased.
class Roster {
 public:
  using ByName = std::map<std::string, WorkerState>;

  // Precondition: neither its name nor its incarnation is here.
  WorkerState& Add(const WorkerRegistration& registration, Incarnation incarnation, absl::Time now);
  // Gives what it was. Precondition: it is here.
  WorkerState Erase(const std::string& name);

  WorkerState* Find(Incarnation incarnation);  // null: it is not here
  const WorkerState* Find(Incarnation incarnation) const;
  WorkerState* Find(const std::string& name);
  const WorkerState* Find(const std::string& name) const;

  // Of a worker that is here.
  void SetReady(WorkerState& worker);
  void SetLeaving(WorkerState& worker, bool leaving);

  int ready() const { return ready_; }
  int staying() const { return staying_; }  // ready, and not leaving
  size_t size() const { return by_name_.size(); }
  bool empty() const { return by_name_.empty(); }
  // In the order of names.
  ByName::iterator begin() { return by_name_.begin(); }
  ByName::iterator end() { return by_name_.end(); }
  ByName::const_iterator begin() const { return by_name_.begin(); }
  ByName::const_iterator end() const { return by_name_.end(); }

 private:
  void Count(const WorkerState& worker, int sign);

  ByName by_name_;
  absl::flat_hash_map<Incarnation, WorkerState*> by_incarnation_;
  int ready_ = 0, staying_ = 0;
};

}  // namespace sdp

#pragma once

#include <optional>
#include <vector>

namespace sdp {

// A resolvable design: parallel classes, each of which splits N workers into N / p sets of p,
// chosen such that together the classes put any two workers into a common set about equally often.
// The classes are ordered so that the first few already mix the workers well.
//   singletons   p = 1: the one class there is.
//   tournament   p = 2, N even: the N - 1 rounds of the circle method. Successive rounds join to
//   one
//                cycle through all workers, so two classes connect everybody.
//   hyperplanes  N = s^m, p = s^(m-1), s prime or 4: the (N - 1) / (s - 1) classes of parallel
//                hyperplanes of the affine geometry AG(m, s).
// Immutable; classes are computed when asked for, so that large N costs no memory.
class Design {
 public:
  // nullopt: none is known here. Preconditions: workers >= 1, set_size >= 1.
  static std::optional<Design> Find(int workers, int set_size);

  int workers() const { return workers_; }
  int sets() const { return workers_ / set_size_; }  // of a class
  int classes() const { return classes_; }

  // [N] The set, in [0, sets()), that each worker is in. Precondition: 0 <= index < classes().
  std::vector<int> Class(int index) const;

 private:
  enum class Form { kSingletons, kTournament, kHyperplanes };

  Design(Form form, int workers, int set_size, int classes)
      : form_(form), workers_(workers), set_size_(set_size), classes_(classes) {}

  std::vector<int> Round(int index) const;
  std::vector<int> Hyperplanes(int index) const;

  Form form_;
  int workers_;
  int set_size_;
  int classes_;
};

}  // namespace sdp

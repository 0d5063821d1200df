#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"

// How the samples of a step are divided among workers. Pure functions of what is known of these.
namespace sdp {

// Part `part` of `total` items in `parts` equal ones, as {first, count}: consecutive, the first
// total mod parts have one more.
std::pair<int64_t, int64_t> EqualPart(int64_t total, int64_t part, int64_t parts);
// [ranks] Their sizes.
std::vector<int64_t> EqualPortions(int64_t samples, size_t ranks);

// How long a worker computes for a sample of its subnetwork: the median of its newest steps, so
// that one slow step says nothing.
class Pace {
 public:
  static constexpr size_t kSteps = 16;

  void Add(absl::Duration computing, int64_t samples);
  // Seconds a sample; 0: too few steps so far.
  double seconds_per_sample() const;

 private:
  std::deque<double> newest_;  // at most kSteps
};

// [ranks] So that the step of the slowest is as short as whole samples allow: each sample goes to
// whoever is done with it first. Ranks of which nothing is known (0) are taken for as fast as the
// median of the others. Everyone has at least one sample, if there are so many.
std::vector<int64_t> LevelPortions(int64_t samples, const std::vector<double>& seconds_per_sample);

struct NewPortions {
  std::vector<int64_t> portions;
  std::string reason;
};
// Other portions, if they shorten the computation of the slowest by a tenth at least and everyone's
// pace is known. `names` [ranks] for the reason.
std::optional<NewPortions> Level(const std::vector<int64_t>& portions,
                                 const std::vector<double>& seconds_per_sample,
                                 const std::vector<std::string>& names);

}  // namespace sdp

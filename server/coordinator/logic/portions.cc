#include "server/coordinator/logic/portions.h"

#include <algorithm>
#include <numeric>
#include <queue>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace sdp {
namespace {

constexpr double kWorthIt = 0.9;  // of the time before

// The lower one of an even number. Precondition: there are some.
double Median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>((values.size() - 1) / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Seconds of the rank that computes longest.
double Longest(const std::vector<int64_t>& portions,
               const std::vector<double>& seconds_per_sample) {
  double longest = 0;
  for (size_t rank = 0; rank < portions.size(); ++rank)
    longest = std::max(longest, static_cast<double>(portions[rank]) * seconds_per_sample[rank]);
  return longest;
}

}  // namespace

std::pair<int64_t, int64_t> EqualPart(int64_t total, int64_t part, int64_t parts) {
  const int64_t base = total / parts, extra = total % parts;
  return {part * base + std::min(part, extra), base + (part < extra ? 1 : 0)};
}

std::vector<int64_t> EqualPortions(int64_t samples, size_t ranks) {
  std::vector<int64_t> portions;
  for (size_t rank = 0; rank < ranks; ++rank)
    portions.push_back(
        EqualPart(samples, static_cast<int64_t>(rank), static_cast<int64_t>(ranks)).second);
  return portions;
}

void Pace::Add(absl::Duration computing, int64_t samples) {
  if (samples <= 0) return;
  newest_.push_back(absl::ToDoubleSeconds(computing) / static_cast<double>(samples));
  if (newest_.size() > kSteps) newest_.pop_front();
}

double Pace::seconds_per_sample() const {
  return newest_.size() < kSteps ? 0 : Median({newest_.begin(), newest_.end()});
}

std::vector<int64_t> LevelPortions(int64_t samples, const std::vector<double>& seconds_per_sample) {
  std::vector<double> known;
  for (const double seconds : seconds_per_sample) {
    if (seconds > 0) known.push_back(seconds);
  }
  const size_t ranks = seconds_per_sample.size();
  if (known.empty()) return EqualPortions(samples, ranks);
  const double unknown = Median(known);
  const int64_t least = samples >= static_cast<int64_t>(ranks) ? 1 : 0;
  std::vector<int64_t> portions(ranks, least);
  // When each would be done with one sample more; of equals the lower rank comes first.
  using Done = std::pair<double, size_t>;
  std::priority_queue<Done, std::vector<Done>, std::greater<>> next;
  const auto ask = [&](size_t rank) {
    const double seconds = seconds_per_sample[rank] > 0 ? seconds_per_sample[rank] : unknown;
    next.emplace(static_cast<double>(portions[rank] + 1) * seconds, rank);
  };
  for (size_t rank = 0; rank < ranks; ++rank) ask(rank);
  for (int64_t left = samples - least * static_cast<int64_t>(ranks); left > 0; --left) {
    const size_t rank = next.top().second;
    next.pop();
    ++portions[rank];
    ask(rank);
  }
  return portions;
}

std::optional<NewPortions> Level(const std::vector<int64_t>& portions,
                                 const std::vector<double>& seconds_per_sample,
                                 const std::vector<std::string>& names) {
  if (std::any_of(seconds_per_sample.begin(), seconds_per_sample.end(),
                  [](double seconds) { return seconds <= 0; })) {
    return std::nullopt;
  }
  NewPortions level;
  level.portions = LevelPortions(std::accumulate(portions.begin(), portions.end(), int64_t{0}),
                                 seconds_per_sample);
  const double before = Longest(portions, seconds_per_sample);
  const double after = Longest(level.portions, seconds_per_sample);
  if (after > kWorthIt * before) return std::nullopt;
  const auto [fastest, slowest] =
      std::minmax_element(seconds_per_sample.begin(), seconds_per_sample.end());
  const auto text = [&](auto rank, const char* end) {
    const auto index = static_cast<size_t>(rank - seconds_per_sample.begin());
    return absl::StrFormat("%s computes %.3g s for a sample and gets %d of a step instead of %d%s",
                           names[index], *rank, level.portions[index], portions[index], end);
  };
  level.reason = absl::StrCat(
      text(slowest, ", "), text(fastest, "; "),
      absl::StrFormat("a step's longest computation falls from %.3g s to %.3g s", before, after));
  return level;
}

}  // namespace sdp

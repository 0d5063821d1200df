#pragma once

#include <sys/resource.h>

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

// What the benchmarks of this folder share: repeated measurements and how they are printed.
namespace sdp {

// Of this process so far, user and system.
inline double CpuMilliseconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto ms = [](const timeval& t) {
    return 1e3 * static_cast<double>(t.tv_sec) + 1e-3 * static_cast<double>(t.tv_usec);
  };
  return ms(usage.ru_utime) + ms(usage.ru_stime);
}

inline double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

// "min/median/max", for a cell of a table.
inline std::string Spread(const std::vector<double>& values, const char* format = "%.1f") {
  const auto text = [&](double value) {
    return absl::StrFormat(*absl::ParsedFormat<'f'>::New(format), value);
  };
  return absl::StrCat(text(*std::min_element(values.begin(), values.end())), "/",
                      text(Median(values)), "/",
                      text(*std::max_element(values.begin(), values.end())));
}

}  // namespace sdp

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace sdp {

// What a block's holders pushed in one step, of which nobody keeps more than the norms: w_a = n_a /
// sum n weights the mean gradient m = sum w_a g_a.
struct HolderGradients {
  std::vector<int64_t> terms;   // [holders] n_a, loss terms
  std::vector<double> squares;  // [holders] |g_a|^2
  double mean_square = 0;       // |m|^2, before clipping
};

// How far the holders of a block agree. Pairs of holders need no gradient beside another one, since
// |m|^2 - sum w_a^2 |g_a|^2 is the sum of w_a w_b <g_a, g_b> over all pairs.
struct BlockDiagnostics {
  std::string unit;
  int holders = 0;           // that had samples
  double gradient_norm = 0;  // |m|
  // Mean over the pairs of holders of the cosine between their gradients, pairs weighted by w_a w_b
  // |g_a| |g_b|; exactly the cosine for two holders. None: no pair, or only zeros.
  std::optional<double> cosine;
  // Of m, from how its holders' gradients scatter: sum w_a |g_a - m|^2 / (holders - 1), the squared
  // distance to be expected between m and its mean over other samples and other holders. For blocks
  // alike it falls as 1 / holders. None: no pair.
  std::optional<double> variance;
};

// Pure. Precondition: `terms` and `squares` are of one size.
BlockDiagnostics Diagnose(const std::string& unit, const HolderGradients& gradients);

}  // namespace sdp

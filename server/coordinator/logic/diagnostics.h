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
  // Of the dense gradient d, if all of the block is compared with it: <m, d> and |d|^2.
  struct Dense {
    double dot = 0, square = 0;
  };
  std::optional<Dense> dense = std::nullopt;
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
  // Of m and the dense gradient d, which is that of the full model's mean loss, as it is evaluated,
  // over the samples of the step: of all members, but for those that were excluded before they had
  // pushed theirs. With backward masking d is what m estimates, from its holders' samples. With
  // forward masking m is a gradient of smaller networks, each with the unit's training factor f
  // where d has the evaluation factor e (common/plan/rescale.h): where branches change little of
  // what others see, m is near f / e times d, with `eval` N / p. At coverage 1 both are 1. None: m
  // or d is zero or missing.
  std::optional<double> dense_cosine;
  std::optional<double> dense_ratio;  // |m| / |d|
};

// Pure. Precondition: `terms` and `squares` are of one size.
BlockDiagnostics Diagnose(const std::string& unit, const HolderGradients& gradients);

}  // namespace sdp

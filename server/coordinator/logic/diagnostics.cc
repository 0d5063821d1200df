#include "server/coordinator/logic/diagnostics.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace sdp {

BlockDiagnostics Diagnose(const std::string& unit, const HolderGradients& gradients) {
  BlockDiagnostics block;
  block.unit = unit;
  block.gradient_norm = std::sqrt(gradients.mean_square);
  if (gradients.dense.has_value() && gradients.dense->square > 0 && gradients.mean_square > 0) {
    const double norm = std::sqrt(gradients.dense->square);
    block.dense_cosine = gradients.dense->dot / (block.gradient_norm * norm);
    block.dense_ratio = block.gradient_norm / norm;
  }
  double total = 0;
  for (const int64_t terms : gradients.terms) {
    total += static_cast<double>(terms);
    if (terms > 0) ++block.holders;
  }
  if (block.holders < 2) return block;
  double norms = 0, own = 0, square = 0;  // sums of w |g|, (w |g|)^2, w |g|^2
  for (size_t a = 0; a < gradients.terms.size(); ++a) {
    const double weight = static_cast<double>(gradients.terms[a]) / total;
    const double norm = weight * std::sqrt(gradients.squares[a]);
    norms += norm;
    own += norm * norm;
    square += weight * gradients.squares[a];
  }
  const double products = norms * norms - own;  // of norms, over pairs
  if (products > 0) block.cosine = (gradients.mean_square - own) / products;
  block.variance = std::max(0.0, square - gradients.mean_square) / (block.holders - 1);
  return block;
}

}  // namespace sdp

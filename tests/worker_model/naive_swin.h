#pragma once

#include <cmath>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/model/swin.h"
#include "tests/worker_model/naive_images.h"

// The Swin Transformer written down with plain differentiable torch operations, as naive_images.h
// has the other image models. Windows are no tensors of their own here: every token looks at all
// others, and those that it must not see are excluded by where they stand.
namespace sdp::naive {

inline at::Tensor LayerNormed(const SwinSpec& spec, const Weights& w, const std::string& name,
                              const at::Tensor& x) {
  const at::Tensor centred = x - x.mean(-1, true);
  return centred / (centred.square().mean(-1, true) + spec.norm_eps).sqrt() *
             w.at(name + ".weight") +
         w.at(name + ".bias");
}

inline at::Tensor LinearOf(const Weights& w, const std::string& name, const at::Tensor& x) {
  return at::matmul(x, w.at(name + ".weight").t()) + w.at(name + ".bias");
}

// What is added to the scores of size x size tokens, [heads, L, L]. Token a sees b if both are in
// one window, shifted by `shift` and going around the edges, and stand less than a window apart.
inline at::Tensor Added(const at::Tensor& table, int64_t size, int64_t window, int64_t shift) {
  const int64_t tokens = size * size;
  std::vector<int64_t> rows;
  const at::Tensor hidden = at::ones({tokens, tokens}, at::kBool);
  const auto window_of = [&](int64_t at) { return (at - shift + size) % size / window; };
  for (int64_t a = 0; a < tokens; ++a) {
    for (int64_t b = 0; b < tokens; ++b) {
      const int64_t down = a / size - b / size, right = a % size - b % size;
      const bool seen = window_of(a / size) == window_of(b / size) &&
                        window_of(a % size) == window_of(b % size) && std::abs(down) < window &&
                        std::abs(right) < window;
      if (seen) hidden[a][b].fill_(false);
      rows.push_back(seen ? (down + window - 1) * (2 * window - 1) + right + window - 1 : 0);
    }
  }
  return table.index_select(0, at::tensor(rows))
      .view({tokens, tokens, -1})
      .permute({2, 0, 1})
      .masked_fill(hidden, -std::numeric_limits<double>::infinity());
}

// x [B, L, d] -> [B, L, d]
inline at::Tensor AttentionOf(const SwinSpec& spec, const Weights& w, const std::string& name,
                              const at::Tensor& x, size_t level, int64_t block) {
  const int64_t heads = spec.heads[level];
  const at::Tensor qkv = LinearOf(w, name + "qkv", x)
                             .view({x.size(0), x.size(1), 3, heads, -1})
                             .permute({2, 0, 3, 1, 4});  // [3, B, heads, L, e]
  const at::Tensor scores = at::matmul(qkv[0], qkv[1].transpose(-2, -1)) /
                            std::sqrt(static_cast<double>(spec.width(level) / heads));
  const bool shifted = block % 2 == 1 && spec.window < spec.size(level);
  const at::Tensor added = Added(w.at(name + "relative_position_bias_table"), spec.size(level),
                                 spec.window, shifted ? spec.window / 2 : 0);
  const at::Tensor out = at::matmul((scores + added).softmax(-1), qkv[2]);
  return LinearOf(w, name + "proj", out.transpose(1, 2).flatten(2));
}

inline at::Tensor Gelu(const at::Tensor& x) { return 0.5 * x * (1 + (x / std::sqrt(2.0)).erf()); }

// images [B, C, size, size] -> logits [B, classes]
inline at::Tensor Logits(const SwinSpec& spec, const Weights& w, const at::Tensor& images,
                         const BranchFactors& factors) {
  at::Tensor h =
      at::conv2d(images, w.at("features.0.0.weight"), w.at("features.0.0.bias"), spec.patch)
          .flatten(2)
          .transpose(1, 2);
  h = LayerNormed(spec, w, "features.0.2", h);
  for (size_t level = 0; level < spec.depths.size(); ++level) {
    for (int64_t block = 0; block < spec.depths[level]; ++block) {
      const std::string name = absl::StrCat("features.", 2 * level + 1, ".", block, ".");
      const std::string unit = absl::StrCat("level", level + 1, ".", block);
      h = h + FactorOf(factors, unit + ".attention") *
                  AttentionOf(spec, w, name + "attn.", LayerNormed(spec, w, name + "norm1", h),
                              level, block);
      const at::Tensor hidden =
          LinearOf(w, name + "mlp.0", LayerNormed(spec, w, name + "norm2", h));
      h = h + FactorOf(factors, unit + ".mlp") * LinearOf(w, name + "mlp.3", Gelu(hidden));
    }
    if (level + 1 == spec.depths.size()) break;
    const std::string merge = absl::StrCat("features.", 2 * level + 2, ".");
    const int64_t size = spec.size(level);
    const at::Tensor square = h.view({h.size(0), size, size, -1});
    std::vector<at::Tensor> fours;
    for (const int64_t column : {0, 1}) {
      for (const int64_t row : {0, 1})
        fours.push_back(square.slice(1, row, size, 2).slice(2, column, size, 2));
    }
    h = LayerNormed(spec, w, merge + "norm", at::cat(fours, -1).flatten(1, 2));
    h = at::matmul(h, w.at(merge + "reduction.weight").t());
  }
  return LinearOf(w, "head", LayerNormed(spec, w, "norm", h).mean(1));
}

}  // namespace sdp::naive

#pragma once

#include <cstdint>

#include "ATen/ATen.h"
#include "worker/model/norms.h"
#include "worker/model/stage.h"

// The blocks of a ResNet (common/model/resnet.h), one autograd function each. A branch that is not
// held has undefined weights; a shortcut without a projection is the identity, and then there must
// be a branch. Of the c inner channels, between the convolutions, a worker may hold n, whole groups
// of their norm; of none its weights are undefined, and the branch is what its other norm makes of
// zeros, or 0. What they keep for the backward pass is stated with each; normed activations and
// what ReLU makes of them are made anew, a pass over memory each. Where gradients are wanted the
// norms go by the batch's own statistics, whatever `norms` says.
namespace sdp {

struct NormPair {
  at::Tensor weight, bias;  // [C]
};
struct BranchWeights {
  at::Tensor conv1;  // [n, b, 3, 3]
  NormPair norm1;    // post: of conv1's output; pre: of the input
  at::Tensor conv2;  // [c, n, 3, 3]
  NormPair norm2;    // post: of conv2's output; pre: of conv1's
};
// What is trained of the weights that units divide, if that is neither all of them nor nothing: the
// leaves of their parts (stage.h), at the same inner channels.
struct BranchParts {
  at::Tensor conv1;  // rows
  NormPair norm;     // between the convolutions
  at::Tensor conv2;  // columns
  Ranges channels;   // empty: there are no such parts
};
struct ShortcutWeights {
  at::Tensor projection;  // [c, b, 1, 1]
  NormPair norm;          // post only
};
struct BlockShape {
  int64_t stride = 1;       // of conv1 and the projection
  int64_t norm_groups = 1;  // of a full width; 0: BatchNorm
  double norm_eps = 0;
};

// relu(shortcut(x) + factor * norm2(conv2(relu(norm1(conv1(x)))))), the projection normed.
// Keeps x, the outputs of convolutions, the last norms' mean and 1 / std, and its own output (the
// next stage's x).
at::Tensor PostBlock(const at::Tensor& x, const BranchWeights& branch,
                     const ShortcutWeights& shortcut, const BlockShape& shape, double factor,
                     Norms& norms, const BranchParts& parts = {});

// shortcut(x) + factor * conv2(relu(norm2(conv1(relu(norm1(x)))))).
// Keeps x and conv1's output.
at::Tensor PreBlock(const at::Tensor& x, const BranchWeights& branch,
                    const ShortcutWeights& shortcut, const BlockShape& shape, double factor,
                    Norms& norms, const BranchParts& parts = {});

}  // namespace sdp

#pragma once

#include <cstdint>
#include <string>

namespace sdp {

// Neuron granularity: units are parts of branches, of which a worker computes those that it holds.
// Each architecture has a catalog of them beside that of whole branches.
struct NeuronUnits {
  enum class Attention {
    kSplit,   // a unit per kv head: its rows of k and v, and of q and columns of o the heads that
              // read it
    kShared,  // the sub-layer is one shared unit
  };
  Attention attention = Attention::kSplit;  // of transformers
  int64_t groups = 0;  // G, of an MLP's neurons or of a block's inner channels; at least 1
};

// What an architecture says to users of a branch that has fewer parts than a plan needs.
struct PartsText {
  std::string number;   // where it comes from: "sdp.groups = 3 of layers.0.mlp"
  std::string instead;  // beside more coverage, or another assignment: "take more groups"
};

}  // namespace sdp

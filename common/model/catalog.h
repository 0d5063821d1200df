#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "common/base/ids.h"

// A model as data: what servers, the planner and the torch stages agree on. An architecture is one
// function that returns a Catalog; nothing here knows torch, files or the network.
namespace sdp {

struct InitialValues {
  enum class Kind { kZeros, kOnes, kNormal };
  Kind kind = Kind::kZeros;
  double stddev = 0;  // kNormal: N(0, stddev^2)
};

struct TensorSpec {
  std::string name;            // As Hugging Face (torchvision) names it.
  std::vector<int64_t> shape;  // Row-major.
  InitialValues initial;
  bool decay = true;         // false: norms and biases, which weight decay leaves alone
  bool ends_branch = false;  // The last linear map of a branch, or its bias: the branch (a unit's
                             // part of it) times a factor is the branch with these tensors (the
                             // unit's parts of them) times the factor.

  int64_t elements() const;
};

// A part of a tensor: indices [begin, end) along `dim`, or all of it (dim < 0).
struct Slice {
  int tensor = 0;  // Index in Catalog::tensors.
  int dim = -1;
  int64_t begin = 0;
  int64_t end = 0;

  bool whole() const { return dim < 0; }
};

// The smallest thing the planner gives or withholds. Its parameters, slice after slice and
// row-major in each, are its block.
struct UnitSpec {
  std::string name;  // "layers.3.attention"
  std::string kind;  // Units of one kind cost the same, or nearly (parts whose sizes differ by
                     // one), and can stand for each other in a plan: "attention", "mlp", "layer".
  bool shared = false;
  std::vector<Slice> slices;
  int64_t params = 0;
  int64_t macs = 0;                 // Multiply-accumulates of the forward pass, per sample.
  int64_t recomputed_macs = 0;      // Of these, done again in the backward pass.
  int64_t activation_elements = 0;  // Elements stored for the backward pass, per sample.
  int layer = -1;  // Of the model's repeated layers, counted from its input; -1: of none, as only
                   // shared units are.
};

// One piece of the forward walk, between two boundary activations.
struct StageSpec {
  std::string name;
  // Read by this stage. Of those that are not shared a worker may hold a part, with which it
  // computes less; without any of them the stage is the identity, unless it stands alone.
  std::vector<UnitId> units;
  int64_t boundary_elements = 0;  // Size of its output, per sample. 0: the stage ends in the loss.
  // Beside its branch it has a shortcut of shared units, which without masked units is all of it.
  bool has_shortcut = false;
  // A shared unit ends its branch, behind the sum over the masked ones: a norm, a bias. So without
  // any of these that is left of the branch, and a factor cannot be the branch's: each unit's
  // belongs into its part of the tensor that ends it.
  bool shared_end = false;
  // Stores its input alone: its forward pass is done again when its backward pass needs the rest.
  bool recomputed = false;

  bool stands_alone() const { return has_shortcut || shared_end; }
};

struct Catalog {
  std::string arch;
  std::vector<TensorSpec> tensors;
  std::vector<UnitSpec> units;  // In the order in which the forward walk first needs them.
  std::vector<StageSpec> stages;

  const UnitSpec& unit(UnitId id) const { return units[static_cast<size_t>(id.value())]; }
  int64_t elements(const Slice& slice) const;
  // [tensors] Elements of each that `units` have together.
  std::vector<int64_t> HeldElements(absl::Span<const UnitId> units) const;
  int64_t params() const;  // Of all units; a tensor that two stages read counts once.
};

// Activation checkpointing: the same model, but all stages that store more than their input are
// recomputed. Not the loss, whose gradients are made with it.
Catalog Recomputed(Catalog catalog);

}  // namespace sdp

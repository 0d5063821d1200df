#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/plan/memory.h"
#include "common/plan/plan.h"

// What a plan means, in numbers: `sdp plan`, and plan.json of a run folder.
namespace sdp {

// Bytes per element on the wire, to and from workers.
struct ElementBytes {
  int64_t weight = 4;
  int64_t gradient = 4;
};

// The fields have the names and the meaning of the JSON form (DESIGN.md, File formats).
struct PlanReport {
  struct Worker {
    std::string id;
    std::vector<std::string>
        units;  // Held, in forward order, shared ones included; so are the sums below.
    int64_t params = 0;
    // With backward masking a worker computes with all units, so these and pull_bytes are those of
    // the full model.
    int64_t macs = 0;                 // Of the forward pass, per sample.
    int64_t activation_elements = 0;  // Stored for the backward pass, per sample.
    int64_t push_bytes = 0;           // Per step, without frame headers.
    int64_t pull_bytes = 0;
    int64_t memory_bytes =
        0;  // Predicted peak of tensors and buffers. 0: not known; absent in JSON.

    // Not in the JSON form.
    int64_t recomputed_macs = 0;  // Of `macs`, those done twice in a training step.
    // Of a training step, over those of the full model's: forward and gradients of activations of
    // what it computes with, gradients of the weights that it holds, each one third; and what is
    // recomputed.
    double flops_share = 1;
    std::string memory_when;  // The moment of that peak: "backward of layers.3.mlp".
  };
  struct Shard {
    std::string id;
    int64_t params = 0;
    int64_t memory_bytes = 0;  // Predicted peak of its buffers.
    int64_t push_bytes = 0;    // To it, per step, of all workers together; without frame headers.
    int64_t pull_bytes = 0;    // From it.
  };
  struct Part {
    std::string tensor;
    int dim = -1;  // < 0: the whole tensor.
    int64_t begin = 0;
    int64_t end = 0;
  };
  struct Unit {
    std::string name;
    std::string kind;
    int64_t params = 0;
    int64_t macs = 0;
    bool shared = false;
    double coverage = 1;
    std::vector<std::string> holders;  // Worker ids in rank order.
    std::vector<Part> slices;
  };

  // A smaller model without masks that one worker could train instead of its subnetwork.
  struct Rival {
    std::string name;  // "fewer layers"
    std::string size;  // "6 of 12 layers"
    int64_t params = 0;
    int64_t macs = 0;
    int64_t memory_bytes = 0;  // 0: not known; absent in JSON.
  };

  // What the busiest worker has from a step on.
  struct Phase {
    int64_t from = 0;
    double coverage = 1;  // The mean, as below.
    int64_t params = 0;
    int64_t macs = 0;
    int64_t push_bytes = 0;
    int64_t pull_bytes = 0;
    int64_t memory_bytes = 0;  // 0: not known; absent in JSON.
    double gap = 0;
  };

  std::vector<Worker> workers;  // In rank order.
  std::vector<Unit> units;      // In forward order.
  std::vector<Shard> shards;    // By number; empty if the memory is not known.
  // Configured; the mean over the units that are not shared, should they differ.
  double coverage = 1;
  bool connected = false;
  bool connected_without_shared = false;
  double gap = 0;           // Without shared units, each unit counted once;
  double gap_weighted = 0;  // counted by its parameters. NaN (null in JSON): not found (gap.h).
  double gap_with_shared = 0;
  double gap_weighted_with_shared = 0;
  double mac_imbalance = 1;  // Largest / mean over the workers.
  double param_imbalance = 1;
  double activation_imbalance = 1;
  double memory_imbalance = 1;
  uint64_t seed = 0;
  std::string hash;  // 16 hexadecimal digits
  // What MakePlanReport leaves empty; absent in JSON then.
  std::vector<Rival> rivals;
  std::vector<Phase> phases;  // More than one; the plan above is that of the first.
  double bandwidth = 0;  // Bytes per second of every link, in each direction. Gives `pull_seconds`
                         // and `push_seconds` to workers and shards.

  // Not in the JSON form.
  std::vector<std::string> warnings;
  Masking masking = Masking::kForward;
  bool recomputed = false;  // Stages keep their input alone.
  Assignment assignment = Assignment::kResolvable;
};

// `plan` is what MakePlan gave for `input`, the masking is the memory model's. Without
// `memory.stages` no memory is predicted.
PlanReport MakePlanReport(const PlanInput& input, const Plan& plan, ElementBytes bytes,
                          const MemoryModel& memory = {});

// Its workers alone, without what takes long for many of them: the gaps.
std::vector<PlanReport::Worker> ReportWorkers(const PlanInput& input, const Plan& plan,
                                              ElementBytes bytes, const MemoryModel& memory);

// The row of a plan's phase. `from`: its first step.
PlanReport::Phase PhaseOf(const PlanReport& report, int64_t from);

// One JSON object, indented, with a final newline; keys in the order of the fields above.
std::string PlanJson(const PlanReport& report);

// Tables for a terminal: the model, what each worker holds of it, and who holds which unit.
std::string PlanText(const PlanReport& report);

}  // namespace sdp

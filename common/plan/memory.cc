#include "common/plan/memory.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sdp {
namespace {

constexpr int64_t kF32 = 4;  // what a shard holds, and sums, whatever travels
constexpr int64_t kTermsAtOnce = 2048;
constexpr int64_t kTermsPerChunk = 16384;
// Of images, where a term is a whole image.
constexpr int64_t kImagesAtOnce = 256;
constexpr int64_t kImagesPerChunk = 2048;
constexpr int64_t kElementsAtOnce = int64_t{1} << 20;
constexpr int64_t kElementsPerChunk = int64_t{1} << 23;

// What is allocated now, and the largest it has been.
class Meter {
 public:
  void Add(int64_t bytes) { now_ += bytes; }
  void Free(int64_t bytes) { now_ -= bytes; }
  // A moment with so much more.
  void Moment(int64_t more, const char* what, const std::string& stage) {
    if (now_ + more <= peak_.bytes) return;
    peak_ = {now_ + more, absl::StrCat(what, stage)};
  }
  const MemoryPeak& peak() const { return peak_; }

 private:
  int64_t now_ = 0;
  MemoryPeak peak_;
};

enum class Gradients { kNone, kKept };  // from micro-batches before

// Of a parameter's place among a worker's fragments.
int64_t FragmentBytes(const MemoryModel& model) {
  return model.worker_place == MemoryPlace::kHost ? model.sizes.fragment : 0;
}
// Of its copy on a GPU, on its way to or from there.
int64_t PassingBytes(const MemoryModel& model) {
  return model.worker_place == MemoryPlace::kHost ? 0 : model.sizes.fragment;
}

std::vector<UnitId> AllUnits(const Catalog& catalog) {
  std::vector<UnitId> all;
  for (size_t unit = 0; unit < catalog.units.size(); ++unit)
    all.push_back(UnitId(static_cast<int32_t>(unit)));
  return all;
}

// What a worker has of a model.
struct Subnetwork {
  std::vector<bool> present;   // [stages] that are not the identity
  std::vector<int64_t> units;  // [stages] held ones
  // [stages] Elements of units that it computes with and no earlier stage reads.
  std::vector<int64_t> coming;
  // [stages] The earlier one that reads the same masked unit, which is held; itself: there is none.
  std::vector<size_t> before;
  HeldTensors tensors;
  int64_t idle = 0;  // elements of shared units whose stages are absent

  Subnetwork(const Catalog& catalog, absl::Span<const UnitId> ids, Masking masking) {
    const bool reads_all = masking == Masking::kBackward;
    tensors = {catalog.HeldElements(reads_all ? AllUnits(catalog) : ids),
               catalog.HeldElements(ids)};
    std::vector<bool> held(catalog.units.size());
    for (const UnitId id : ids) held[static_cast<size_t>(id.value())] = true;
    std::vector<std::optional<size_t>> first(catalog.units.size());  // stage
    for (const StageSpec& stage : catalog.stages) {
      int64_t masked = 0, masked_held = 0, shared = 0, shared_params = 0;
      before.push_back(coming.size());
      coming.push_back(0);
      for (const UnitId id : stage.units) {
        const UnitSpec& unit = catalog.unit(id);
        const auto index = static_cast<size_t>(id.value());
        (unit.shared ? shared : masked) += 1;
        if (unit.shared) shared_params += unit.params;
        if (!unit.shared && held[index]) {
          ++masked_held;
          before.back() = first[index].value_or(before.back());
        }
        if (!first[index].has_value() && (held[index] || reads_all)) coming.back() += unit.params;
        if (!first[index].has_value()) first[index] = coming.size() - 1;
      }
      present.push_back(masked == 0 || masked_held > 0 || stage.stands_alone() || reads_all);
      units.push_back(shared + masked_held);
      if (!present.back()) idle += shared_params;
    }
  }
};

// One micro-batch of a training step, as TrainPass walks it.
class MicroBatch {
 public:
  MicroBatch(const Catalog& catalog, const Subnetwork& subnetwork, const MemoryModel& model,
             int64_t samples)
      : catalog_(catalog),
        model_(model),
        subnetwork_(subnetwork),
        fragment_(FragmentBytes(model)),
        passing_(PassingBytes(model)),
        memories_(model.stages(samples, subnetwork.tensors)),
        input_(samples * model.input_bytes),
        target_(samples * model.target_bytes) {
    opened_.resize(memories_.size());
    for (size_t stage = 0; stage < memories_.size(); ++stage) {
      if (subnetwork.present[stage]) stages_.push_back(stage);
      const size_t before = subnetwork.before[stage];
      if (before == stage) continue;
      const int64_t opened = std::min(memories_[before].trained, Layout::kMaxFragment);
      opened_[stage] += opened;
      opened_[before] -= opened;
    }
    meter_.Add(model.table_bytes + input_ + target_);
    meter_.Add(subnetwork.idle * fragment_);  // Their weights, then gradients of 0.
  }

  MemoryPeak Peak(Gradients gradients, bool last) {
    kept_ = gradients == Gradients::kKept;
    last_ = last;
    for (const size_t stage : stages_) {
      const int64_t elements = memories_[stage].parameters;
      meter_.Add(kept_ ? Weights(elements) : elements * fragment_);
      if (kept_) meter_.Add(Sums(memories_[stage].trained));
    }
    Forward();
    Backward();
    return meter_.peak();
  }

 private:
  int64_t Weights(int64_t elements) const { return elements * model_.sizes.weight; }
  int64_t Gradient(int64_t elements) const { return elements * model_.sizes.gradient; }
  // Between micro-batches gradients are sums in f32.
  int64_t Sums(int64_t elements) const { return elements * kF32; }
  // Gradients on their way from a GPU.
  int64_t Passing() const {
    const auto most = static_cast<int64_t>(kMostPassing) * Layout::kMaxFragment;
    return std::min(handed_out_, most) * passing_;
  }
  const std::string& Name(size_t stage) const { return catalog_.stages[stage].name; }

  void Forward() {
    int64_t input = 0;  // the first stage's is the batch
    bool input_is_kept = false;
    for (const size_t stage : stages_) {
      const StageMemory& memory = memories_[stage];
      const int64_t fresh = input_is_kept ? 0 : input;
      if (!kept_) {  // its weights come: a unit's fragments go when all are unpacked
        const int64_t elements = subnetwork_.coming[stage];
        meter_.Moment(fresh + Weights(elements) + elements * passing_, "weights of ", Name(stage));
        meter_.Add(Weights(elements) - elements * fragment_);
      }
      const bool again = catalog_.stages[stage].recomputed;
      meter_.Moment(fresh + (again ? memory.evaluate : memory.forward), "forward of ", Name(stage));
      kept_bytes_.push_back(again ? fresh
                                  : memory.stored + (memory.stores_input ? fresh : 0) +
                                        (memory.stores_output ? memory.output : 0));
      meter_.Add(kept_bytes_.back());
      if (last_) meter_.Free(Weights(memory.spent_forward));
      inputs_.push_back(input);
      input = memory.output;
      input_is_kept = memory.stores_output && !again;
    }
    meter_.Free(target_);
  }

  void Backward() {
    const StageMemory& loss = memories_[stages_.back()];
    HandOut(loss, stages_.back());
    // The gradient of its input is under way; that of a tied weight waits.
    int64_t gradient = inputs_.back();
    int64_t waiting = loss.early_gradients - Gradient(loss.parameters);
    meter_.Free(loss.stored - waiting);
    meter_.Moment(loss.backward, "backward of ", Name(stages_.back()));
    meter_.Free(kept_bytes_.back() - loss.stored);
    for (size_t i = stages_.size() - 1; i-- > 0;) {
      const StageMemory& memory = memories_[stages_[i]];
      const int64_t trained = memory.trained;
      int64_t made_again = 0;
      if (catalog_.stages[stages_[i]].recomputed) {
        meter_.Moment(gradient + memory.forward + Passing(), "forward again of ", Name(stages_[i]));
        made_again = memory.stored + memory.output + memory.input_copy;
      }
      meter_.Moment(gradient + made_again + Passing() + memory.backward, "backward of ",
                    Name(stages_[i]));
      meter_.Free(kept_bytes_[i]);
      if (i == 0) meter_.Free(input_);
      gradient = inputs_[i];
      if (trained == 0) {
        if (last_) NextVersion(memory, stages_[i]);
        continue;
      }
      meter_.Add(gradient + Gradient(trained));
      if (i == 0) meter_.Free(std::exchange(waiting, 0));  // Added to that of the first stage.
      HandOut(memory, stages_[i]);
      meter_.Free(gradient + Gradient(trained));
    }
  }

  // The stage's weights, which have no gradients, go; the next step's may come at once.
  void NextVersion(const StageMemory& memory, size_t stage) {
    meter_.Free(Weights(memory.spent_backward));
    meter_.Add(subnetwork_.coming[stage] * fragment_);
  }

  // The stage's gradients, counted by the caller, are final for this micro-batch.
  void HandOut(const StageMemory& memory, size_t stage) {
    const int64_t elements = memory.trained;
    if (!last_) {
      if (!kept_) meter_.Add(Sums(elements));  // They stay.
      return;
    }
    // Weight by weight: its values go unless they went before, its gradient is copied into
    // fragments and goes. What this adds is the fragment that is being filled, and all of them
    // where the weights had gone before. A parameter's fragment has its place until the step ends.
    // Units that share the stage's weights fill their fragments side by side, from their first
    // gradient on, when that weight has gone.
    const int64_t units = subnetwork_.units[stage];
    const int64_t filling =
        std::min(elements + opened_[stage], units * Layout::kMaxFragment) * model_.sizes.fragment -
        (units > 1 ? Weights(memory.spent_first) : 0);
    meter_.Moment(filling + Passing(), "gradients of ", Name(stage));
    handed_out_ += elements;
    meter_.Free(Weights(memory.spent_backward));
    // With what is read only: anew.
    meter_.Add((memory.parameters + opened_[stage]) * fragment_);
    meter_.Moment(Passing(), "gradients of ", Name(stage));
    if (kept_) meter_.Free(Sums(elements));
  }

  const Catalog& catalog_;
  const MemoryModel& model_;
  const Subnetwork& subnetwork_;
  const int64_t fragment_, passing_;  // bytes of a parameter
  const std::vector<StageMemory> memories_;
  const int64_t input_, target_;  // bytes of the batch
  std::vector<size_t> stages_;    // present ones
  // [stages] Where two stages read one unit, the fragment with gradients of both opens when the
  // later stage's are handed out, which is first: elements of the earlier one's for which it makes
  // room, and, less than 0, for which the earlier one finds room.
  std::vector<int64_t> opened_;
  // [stages_] Bytes.
  std::vector<int64_t> inputs_;
  std::vector<int64_t> kept_bytes_;  // from the forward pass until the backward pass
  int64_t handed_out_ = 0;           // elements of gradients so far
  bool kept_ = false;
  bool last_ = false;
  Meter meter_;
};

const MemoryPeak& Larger(const MemoryPeak& a, const MemoryPeak& b) {
  return b.bytes > a.bytes ? b : a;
}

}  // namespace

EvaluationSizes EvaluationSizesFor(const Catalog& catalog, int64_t terms_per_sample,
                                   int64_t micro_batch, int64_t worker_memory_bytes,
                                   int64_t activation_bytes) {
  int64_t elements = 1;
  for (const StageSpec& stage : catalog.stages)
    elements = std::max(elements, stage.boundary_elements);
  const bool images = terms_per_sample == 1;
  const auto samples = [&](int64_t terms, int64_t most, int64_t most_elements) {
    return std::max<int64_t>(
        1, images ? std::min(most, most_elements / elements) : terms / terms_per_sample);
  };
  EvaluationSizes sizes;
  sizes.micro =
      micro_batch > 0 ? micro_batch : samples(kTermsAtOnce, kImagesAtOnce, kElementsAtOnce);
  int64_t chunk =
      micro_batch > 0 ? micro_batch : samples(kTermsPerChunk, kImagesPerChunk, kElementsPerChunk);
  if (worker_memory_bytes > 0) chunk = worker_memory_bytes / 2 / (elements * activation_bytes);
  sizes.chunk = std::max(sizes.micro, chunk / sizes.micro * sizes.micro);
  return sizes;
}

MemoryPeak TrainingMemory(const Catalog& catalog, absl::Span<const UnitId> units,
                          const MemoryModel& model, int64_t samples) {
  const Subnetwork subnetwork(catalog, units, model.masking);
  if (samples == 0) return {};
  const int64_t micro = model.micro_batch > 0 ? std::min(model.micro_batch, samples) : samples;
  const int64_t count = (samples + micro - 1) / micro;
  const auto peak = [&](int64_t index) {
    MicroBatch walk(catalog, subnetwork, model, std::min(micro, samples - index * micro));
    return walk.Peak(index == 0 ? Gradients::kNone : Gradients::kKept, index == count - 1);
  };
  // Those in the middle are alike.
  MemoryPeak worst = peak(0);
  if (count > 1) worst = Larger(worst, peak(count - 1));
  if (count > 2) worst = Larger(worst, peak(1));
  return worst;
}

MemoryPeak EvaluationMemory(const Catalog& catalog, const MemoryModel& model) {
  const int64_t walks = model.evaluation.chunk / model.evaluation.micro;
  const int64_t fragment = FragmentBytes(model);
  const std::vector<int64_t> all = catalog.HeldElements(AllUnits(catalog));
  const std::vector<StageMemory> memories = model.stages(model.evaluation.micro, {all, all});
  std::vector<size_t> last(catalog.units.size());
  for (size_t stage = 0; stage < catalog.stages.size(); ++stage) {
    for (const UnitId unit : catalog.stages[stage].units)
      last[static_cast<size_t>(unit.value())] = stage;
  }
  enum class Place { kAway, kFragments, kHere };
  std::vector<Place> place(catalog.units.size());
  Meter meter;
  const auto want = [&](size_t stage) {
    for (const UnitId unit : catalog.stages[stage].units) {
      Place& where = place[static_cast<size_t>(unit.value())];
      if (where != Place::kAway) continue;
      meter.Add(catalog.unit(unit).params * fragment);
      where = Place::kFragments;
    }
  };
  int64_t input = model.evaluation.micro * model.input_bytes;
  meter.Add(model.table_bytes + walks * model.evaluation.micro * model.target_bytes);
  want(0);
  for (size_t stage = 0; stage < memories.size(); ++stage) {
    const std::string& name = catalog.stages[stage].name;
    int64_t room = 0;  // for all masked units when the first comes: their weights are the same
    for (const UnitId unit : catalog.stages[stage].units) {
      if (catalog.unit(unit).shared || place[static_cast<size_t>(unit.value())] == Place::kHere)
        continue;
      room += catalog.unit(unit).params * model.sizes.weight;
    }
    for (const UnitId unit : catalog.stages[stage].units) {
      Place& where = place[static_cast<size_t>(unit.value())];
      if (where == Place::kHere) continue;
      const int64_t params = catalog.unit(unit).params;
      const int64_t weights =
          catalog.unit(unit).shared ? params * model.sizes.weight : std::exchange(room, 0);
      meter.Moment(walks * input + weights + params * PassingBytes(model),
                   "evaluation: weights of ", name);
      meter.Add(weights - params * fragment);
      where = Place::kHere;
    }
    want(stage + 1 < memories.size() ? stage + 1 : 0);  // 0: of the next chunk
    const StageMemory& memory = memories[stage];
    const int64_t first = walks * input, others = (walks - 1) * memory.output + input;
    meter.Moment(std::max(first, others) + memory.evaluate, "evaluation of ", name);
    input = memory.output;
    for (const UnitId unit : catalog.stages[stage].units) {
      const auto index = static_cast<size_t>(unit.value());
      if (last[index] != stage) continue;
      meter.Free(catalog.unit(unit).params * model.sizes.weight);
      place[index] = Place::kAway;
    }
  }
  return meter.peak();
}

int64_t PortionOf(const MemoryModel& model, int rank, int ranks) {
  if (model.worker_batch > 0) return model.worker_batch;
  return model.global_batch / ranks + (rank < model.global_batch % ranks ? 1 : 0);
}

MemoryPeak WorkerMemory(const Catalog& catalog, absl::Span<const UnitId> units,
                        const MemoryModel& model, int rank, int ranks) {
  const MemoryPeak training = TrainingMemory(catalog, units, model, PortionOf(model, rank, ranks));
  return model.evaluates ? Larger(training, EvaluationMemory(catalog, model)) : training;
}

std::vector<ShardLoad> ShardMemory(const MemoryModel& model) {
  std::vector<ShardLoad> loads(static_cast<size_t>(model.shards));
  const std::vector<ShardId> place = model.layout->Place(model.shards);
  for (int id = 0; id < model.layout->fragments(); ++id) {
    ShardLoad& load = loads[static_cast<size_t>(place[static_cast<size_t>(id)].value())];
    load.params += model.layout->fragment(FragmentId(id)).size;
  }
  const int64_t vectors = 2 + model.optimizer_moments + (model.diagnoses ? 1 : 0);
  for (ShardLoad& load : loads) load.memory_bytes = load.params * kF32 * vectors;
  return loads;
}

}  // namespace sdp

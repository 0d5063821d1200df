#include "worker/model/weight_map.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"

namespace sdp {
namespace {

size_t IndexOf(int id) { return static_cast<size_t>(id); }
size_t IndexOf(UnitId id) { return static_cast<size_t>(id.value()); }

// A part of a tensor that a unit has.
struct Part {
  UnitId unit;
  Slice slice;
};

// [tensors][run] in unit order: the first part that each unit has of the tensor, then the second
// ones, and so on. Of q, k and v in one tensor a unit has three.
using Runs = std::vector<std::vector<Part>>;
std::vector<Runs> RunsOf(const Catalog& catalog) {
  std::vector<Runs> runs(catalog.tensors.size());
  for (size_t unit = 0; unit < catalog.units.size(); ++unit) {
    std::vector<size_t> next(catalog.tensors.size());
    for (const Slice& slice : catalog.units[unit].slices) {
      const size_t run = next[IndexOf(slice.tensor)]++;
      Runs& its = runs[IndexOf(slice.tensor)];
      if (run == its.size()) its.emplace_back();
      its[run].push_back({UnitId(static_cast<int32_t>(unit)), slice});
    }
  }
  return runs;
}

// Parts side by side, run after run, are the tensor.
bool AddUp(const TensorSpec& tensor, const Runs& runs) {
  if (runs.empty()) return false;
  const Slice& first = runs.front().front().slice;
  if (first.whole()) return runs.size() == 1 && runs.front().size() == 1;
  int64_t end = 0;
  for (const std::vector<Part>& run : runs) {
    for (const Part& part : run) {
      if (part.slice.whole() || part.slice.dim != first.dim || part.slice.begin != end ||
          part.slice.end < end) {
        return false;
      }
      end = part.slice.end;
    }
  }
  return end == tensor.shape[IndexOf(first.dim)];
}

// One per run.
std::vector<Slice> SlicesOf(const Catalog& catalog, UnitId unit, int tensor) {
  std::vector<Slice> slices;
  for (const Slice& slice : catalog.unit(unit).slices) {
    if (slice.tensor == tensor) slices.push_back(slice);
  }
  return slices;
}

absl::StatusOr<int> FindTensor(const Catalog& catalog, const std::string& name) {
  for (size_t i = 0; i < catalog.tensors.size(); ++i) {
    if (catalog.tensors[i].name == name) return static_cast<int>(i);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("reads ", name, ", which the catalog does not have"));
}

}  // namespace

absl::StatusOr<WeightMap> WeightMap::Make(const Catalog& catalog, const Network& network) {
  if (catalog.stages.size() != network.stages.size() + 1) {
    return absl::InvalidArgumentError(absl::StrCat("the catalog has ", catalog.stages.size(),
                                                   " stages, the network ",
                                                   network.stages.size() + 1));
  }
  WeightMap map;
  map.stages_.resize(catalog.stages.size());
  map.first_.resize(catalog.stages.size());
  map.weight_of_.assign(catalog.tensors.size(), -1);
  for (size_t stage = 0; stage < catalog.stages.size(); ++stage) {
    const bool last = stage == network.stages.size();
    for (const WeightNames& names :
         last ? network.loss->Weights() : network.stages[stage]->Weights()) {
      SDP_RETURN_IF_ERROR(Context(map.Add(catalog, stage, names),
                                  absl::StrCat("stage ", catalog.stages[stage].name)));
    }
  }
  SDP_RETURN_IF_ERROR(map.CheckComplete(catalog));
  SDP_RETURN_IF_ERROR(map.FindUnits(catalog));
  map.FindSpent(network);
  return map;
}

absl::Status WeightMap::Add(const Catalog& catalog, size_t stage, const WeightNames& names) {
  Weight weight;
  for (const std::string& name : names) {
    SDP_ASSIGN_OR_RETURN(const int tensor, FindTensor(catalog, name));
    const std::vector<int64_t>& shape = catalog.tensors[IndexOf(tensor)].shape;
    if (!weight.tensors.empty()) {
      const std::vector<int64_t>& first = catalog.tensors[IndexOf(weight.tensors.front())].shape;
      if (shape.size() != first.size() ||
          !std::equal(shape.begin() + 1, shape.end(), first.begin() + 1)) {
        return absl::InvalidArgumentError(
            absl::StrCat("stacks tensors of different widths: ", absl::StrJoin(names, ", ")));
      }
    }
    weight.tensors.push_back(tensor);
  }
  // A tensor that an earlier stage reads too (a tied head): the same weight.
  const int known = weight_of_[IndexOf(weight.tensors.front())];
  if (known >= 0) {
    if (weights_[IndexOf(known)].tensors != weight.tensors) {
      return absl::InvalidArgumentError(
          absl::StrCat("stacks ", absl::StrJoin(names, ", "), " unlike an earlier stage"));
    }
    stages_[stage].push_back(known);
    return absl::OkStatus();
  }
  const int index = static_cast<int>(weights_.size());
  for (const int tensor : weight.tensors) weight_of_[IndexOf(tensor)] = index;
  weights_.push_back(std::move(weight));
  stages_[stage].push_back(index);
  first_[stage].push_back(index);
  return absl::OkStatus();
}

absl::Status WeightMap::CheckComplete(const Catalog& catalog) const {
  for (size_t tensor = 0; tensor < weight_of_.size(); ++tensor) {
    if (weight_of_[tensor] < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("no stage reads ", catalog.tensors[tensor].name));
    }
  }
  return absl::OkStatus();
}

absl::Status WeightMap::FindUnits(const Catalog& catalog) {
  units_.resize(catalog.units.size());
  const std::vector<Runs> runs = RunsOf(catalog);
  for (size_t w = 0; w < weights_.size(); ++w) {
    Weight& weight = weights_[w];
    for (const int tensor : weight.tensors) {
      const Runs& its = runs[IndexOf(tensor)];
      const std::string& name = catalog.tensors[IndexOf(tensor)].name;
      if (!AddUp(catalog.tensors[IndexOf(tensor)], its)) {
        return absl::InvalidArgumentError(
            absl::StrCat("the units' parts of ", name, " do not make it up in their order"));
      }
      if (weight.units.empty()) {
        for (const Part& part : its.front()) weight.units.push_back(part.unit);
      }
      for (const std::vector<Part>& run : its) {
        if (std::equal(run.begin(), run.end(), weight.units.begin(), weight.units.end(),
                       [](const Part& part, UnitId unit) { return part.unit == unit; })) {
          continue;
        }
        return absl::InvalidArgumentError(
            absl::StrCat("a weight stacks ", name, " on a tensor of other units"));
      }
      if (weight.tensors.size() > 1 && its.front().front().slice.dim > 0) {
        return absl::InvalidArgumentError(
            absl::StrCat("a weight stacks ", name, ", of which units have columns"));
      }
    }
    for (const UnitId unit : weight.units) units_[IndexOf(unit)].push_back(static_cast<int>(w));
  }
  return absl::OkStatus();
}

void WeightMap::FindSpent(const Network& network) {
  std::vector<size_t> last(weights_.size());
  std::vector<bool> read_backward(weights_.size());
  for (size_t stage = 0; stage < stages_.size(); ++stage) {
    const bool backward = stage == network.stages.size()
                              ? network.loss->BackwardReadsWeights()
                              : network.stages[stage]->BackwardReadsWeights();
    for (const int weight : stages_[stage]) {
      last[IndexOf(weight)] = stage;
      if (backward) read_backward[IndexOf(weight)] = true;
    }
  }
  spent_.resize(stages_.size());
  for (size_t weight = 0; weight < weights_.size(); ++weight) {
    if (!read_backward[weight]) spent_[last[weight]].push_back(static_cast<int>(weight));
  }
}

SlimMap::SlimMap(const Catalog& catalog, const Layout& layout, const WeightMap& map,
                 absl::Span<const UnitId> units, absl::Span<const double> folded)
    : map_(map),
      here_(map.unit_count()),
      units_(map.weights().size()),
      places_(map.unit_count()),
      parts_(map.weights().size()) {
  for (const UnitId unit : units) here_[IndexOf(unit)] = true;
  for (size_t w = 0; w < map.weights().size(); ++w) {
    for (const UnitId unit : map.weights()[w].units) {
      if (Has(unit)) units_[w].push_back(unit);
    }
    std::vector<int64_t> shape;
    int64_t elements = 0;
    for (const int tensor : map.weights()[w].tensors) {
      const std::vector<int64_t> part =
          AddTensor(catalog, layout, static_cast<int>(w), tensor, elements, folded);
      int64_t size = 1;
      for (const int64_t extent : part) size *= extent;
      elements += size;
      if (shape.empty()) {
        shape = part;
      } else {
        shape[0] += part[0];
      }
    }
    shapes_.push_back(std::move(shape));
  }
}

std::vector<int64_t> SlimMap::AddTensor(const Catalog& catalog, const Layout& layout, int weight,
                                        int tensor, int64_t base, absl::Span<const double> folded) {
  const TensorSpec& spec = catalog.tensors[IndexOf(tensor)];
  const std::vector<UnitId>& units = units_[IndexOf(weight)];
  if (units.empty()) return spec.shape;  // Nobody asks for it.
  const std::vector<Slice> first = SlicesOf(catalog, units.front(), tensor);
  if (first.front().whole()) {
    const int64_t elements = spec.elements();
    AddPlaces(layout, units.front(), weight, first.front(),
              {base, elements, elements, 0, 0, elements}, /*factor=*/1);
    return spec.shape;
  }
  const size_t dim = IndexOf(first.front().dim);
  std::vector<std::vector<Slice>> slices;  // [units][runs]
  std::vector<int64_t> shape = spec.shape;
  shape[dim] = 0;
  for (const UnitId unit : units) {
    slices.push_back(SlicesOf(catalog, unit, tensor));
    for (const Slice& slice : slices.back()) shape[dim] += slice.end - slice.begin;
  }
  int64_t inner = 1;  // elements per index of `dim`
  for (size_t i = dim + 1; i < spec.shape.size(); ++i) inner *= spec.shape[i];
  int64_t next = 0;  // index of `dim` in the slim tensor
  for (size_t run = 0; run < first.size(); ++run) {
    for (size_t u = 0; u < units.size(); ++u) {
      const Slice& slice = slices[u][run];
      const UnitId unit = units[u];
      AddPlaces(layout, unit, weight, slice,
                {base, spec.shape[dim] * inner, shape[dim] * inner, (next - slice.begin) * inner,
                 slice.begin * inner, slice.end * inner},
                spec.ends_branch ? folded[IndexOf(unit)] : 1);
      // Tensors are stacked along dimension 0, of which a base is a number of whole indices.
      parts_[IndexOf(weight)].push_back(
          {unit, static_cast<int64_t>(dim), base / inner + next, slice.end - slice.begin});
      next += slice.end - slice.begin;
    }
  }
  return shape;
}

void SlimMap::AddPlaces(const Layout& layout, UnitId unit, int weight, const Slice& slice,
                        const Position& position, double factor) {
  for (const FragmentId fragment : layout.block(unit)) {
    for (const Strip& strip : layout.strips(fragment)) {
      if (strip.first.tensor != slice.tensor) continue;
      if (!position.Has(strip.first.tensor_offset)) continue;  // of another run
      places_[IndexOf(unit)].push_back({weight, fragment, strip.first.fragment_offset,
                                        position.at(strip.first.tensor_offset), strip.first.size,
                                        strip.count, position.slim, factor});
    }
  }
}

}  // namespace sdp

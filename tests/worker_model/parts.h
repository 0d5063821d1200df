#pragma once

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "tests/worker_model/model_case.h"

// Subnetworks of parts of branches (neuron granularity), and the full models that they stand for.
namespace sdp {

// Shared units, and each of the others with probability 1/2; factors of the held ones from
// `factors`, in turn.
inline std::vector<HeldUnit> RandomUnits(const ModelCase& c, unsigned seed,
                                         const std::vector<double>& factors) {
  std::mt19937 random(seed);
  std::vector<HeldUnit> held;
  for (const HeldUnit& unit : c.Held()) {
    const bool shared = c.catalog.unit(unit.unit).shared;
    if (!shared && random() % 2 == 0) continue;
    held.push_back({unit.unit, shared ? 1 : factors[held.size() % factors.size()]});
  }
  return held;
}

// The model that `held` stands for: tensors that end a branch with each unit's part times its
// factor, 0 where it is not held. Differentiable in `leaves`.
inline naive::Weights Masked(const ModelCase& c, const std::vector<HeldUnit>& held,
                             const naive::Weights& leaves) {
  naive::Weights masked = leaves;
  for (size_t unit = 0; unit < c.catalog.units.size(); ++unit) {
    if (c.catalog.units[unit].shared) continue;
    double factor = 0;
    for (const HeldUnit& h : held) {
      if (h.unit.value() == static_cast<int32_t>(unit)) factor = h.factor;
    }
    for (const Slice& slice : c.catalog.units[unit].slices) {
      const TensorSpec& spec = c.catalog.tensors[static_cast<size_t>(slice.tensor)];
      if (!spec.ends_branch) continue;
      if (slice.whole()) {
        masked[spec.name] = masked[spec.name] * factor;
        continue;
      }
      std::vector<int64_t> shape(spec.shape.size(), 1);
      shape[static_cast<size_t>(slice.dim)] = spec.shape[static_cast<size_t>(slice.dim)];
      at::Tensor scale = at::ones(shape, at::kDouble);
      scale.narrow(slice.dim, slice.begin, slice.end - slice.begin).fill_(factor);
      masked[spec.name] = masked[spec.name] * scale;
    }
  }
  return masked;
}

// Held units are taken once and all of their fragments handed out once; absent ones never.
inline void ExpectExchanged(const ModelCase& c, const FakeExchange& exchange,
                            const std::vector<HeldUnit>& held) {
  using Kind = FakeExchange::Kind;
  for (size_t unit = 0; unit < c.catalog.units.size(); ++unit) {
    const UnitId id(static_cast<int32_t>(unit));
    const bool is_held =
        std::any_of(held.begin(), held.end(), [&](const HeldUnit& h) { return h.unit == id; });
    EXPECT_EQ(exchange.Count(Kind::kTake, id.value()), is_held) << c.catalog.unit(id).name;
    for (const FragmentId fragment : c.layout.block(id)) {
      EXPECT_EQ(exchange.Count(Kind::kGradient, fragment.value()), is_held)
          << c.catalog.unit(id).name;
    }
  }
}

// All gradients that were handed out, by tensor, put together from the parts that units have.
inline naive::Weights GradientsByTensor(const ModelCase& c, const FakeExchange& exchange) {
  naive::Weights gradients;
  for (const TensorSpec& spec : c.catalog.tensors)
    gradients[spec.name] = at::empty(spec.shape, at::kFloat);
  for (int id = 0; id < c.layout.fragments(); ++id) {
    for (const Piece& piece : c.layout.pieces(FragmentId(id))) {
      const std::string& name = c.catalog.tensors[static_cast<size_t>(piece.tensor)].name;
      std::memcpy(gradients[name].mutable_data_ptr<float>() + piece.tensor_offset,
                  exchange.gradient(FragmentId(id))->data() + piece.fragment_offset,
                  static_cast<size_t>(piece.size) * sizeof(float));
    }
  }
  return gradients;
}

}  // namespace sdp

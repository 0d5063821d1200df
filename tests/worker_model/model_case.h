#pragma once

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "common/model/architectures.h"
#include "gtest/gtest.h"
#include "tests/worker_model/fake_exchange.h"
#include "torch/autograd.h"
#include "worker/data/dataset.h"
#include "worker/model/make_model.h"

namespace sdp {

namespace naive {
using Weights = std::map<std::string, at::Tensor>;  // by the catalog's names
}

// A model with weights, of any architecture, and everything around it that a test asks for.
struct ModelCase {
  Catalog catalog;
  Layout layout;
  naive::Weights weights;  // f32
  std::unique_ptr<LocalModel> model;

  // Random weights: norms near 1, matrices large enough that every branch matters.
  explicit ModelCase(Catalog made, int64_t max_fragment = Layout::kMaxFragment)
      : catalog(std::move(made)), layout(catalog, max_fragment) {
    auto generator = at::make_generator<at::CPUGeneratorImpl>(1);
    for (const TensorSpec& tensor : catalog.tensors) {
      at::Tensor values = 0.3 * at::randn(tensor.shape, generator, at::kFloat);
      weights[tensor.name] = tensor.shape.size() == 1 ? values + 1 : values;
    }
  }

  void MakeModel(const ModelSpec& spec, const Dataset& data, const ModelOptions& options) {
    absl::StatusOr<std::unique_ptr<LocalModel>> made =
        MakeTorchModel(catalog, layout, spec, &data, &data, options);
    if (!made.ok()) throw std::runtime_error(made.status().ToString());
    model = *std::move(made);
  }

  UnitId Unit(const std::string& name) const {
    for (size_t i = 0; i < catalog.units.size(); ++i) {
      if (catalog.units[i].name == name) return UnitId(static_cast<int32_t>(i));
    }
    throw std::runtime_error("no unit " + name);
  }

  // All units but the absent ones; `factor` for those that are not shared.
  std::vector<HeldUnit> Held(const std::vector<std::string>& absent = {}, double factor = 1) const {
    std::vector<HeldUnit> held;
    for (size_t i = 0; i < catalog.units.size(); ++i) {
      const UnitSpec& unit = catalog.units[i];
      if (std::find(absent.begin(), absent.end(), unit.name) != absent.end()) continue;
      held.push_back({UnitId(static_cast<int32_t>(i)), unit.shared ? 1 : factor});
    }
    return held;
  }

  // Its slices one after another: what the catalog says a block is.
  at::Tensor Block(UnitId unit, const naive::Weights& values) const {
    std::vector<at::Tensor> flat;
    for (const Slice& slice : catalog.unit(unit).slices) {
      const at::Tensor& tensor = values.at(catalog.tensors[static_cast<size_t>(slice.tensor)].name);
      const at::Tensor part =
          slice.whole() ? tensor : tensor.narrow(slice.dim, slice.begin, slice.end - slice.begin);
      flat.push_back(part.reshape({-1}));
    }
    return at::cat(flat);
  }

  FakeExchange MakeExchange() const { return FakeExchange(layout, Fragments(weights)); }

  std::vector<FloatBuffer> Fragments(const naive::Weights& values) const {
    std::vector<FloatBuffer> fragments;
    for (int id = 0; id < layout.fragments(); ++id) {
      const Fragment& fragment = layout.fragment(FragmentId(id));
      const at::Tensor block = Block(fragment.unit, values).to(at::kFloat);
      FloatBuffer buffer(fragment.size);
      std::memcpy(buffer.data(), block.const_data_ptr<float>() + fragment.offset,
                  static_cast<size_t>(buffer.bytes()));
      fragments.push_back(std::move(buffer));
    }
    return fragments;
  }

  // The block's gradient, put together from what was handed out.
  at::Tensor BlockGradient(const FakeExchange& exchange, UnitId unit) const {
    std::vector<at::Tensor> parts;
    for (const FragmentId id : layout.block(unit)) {
      const std::optional<FloatBuffer>& gradient = exchange.gradient(id);
      if (!gradient.has_value() || gradient->size() != layout.fragment(id).size) {
        ADD_FAILURE() << "fragment " << id << " of " << catalog.unit(unit).name
                      << " has no gradient of its size";
        return at::zeros({catalog.unit(unit).params});
      }
      parts.push_back(
          at::tensor(at::ArrayRef<float>(gradient->data(), static_cast<size_t>(gradient->size()))));
    }
    return at::cat(parts);
  }

  // The reference: weights in f64 as leaves.
  naive::Weights ReferenceWeights() const {
    naive::Weights reference;
    for (const auto& [name, value] : weights)
      reference[name] = value.to(at::kDouble).requires_grad_();
    return reference;
  }
  static naive::Weights Gradients(const naive::Weights& w) {
    naive::Weights gradients;
    for (const auto& [name, value] : w) {
      gradients[name] = value.grad().defined() ? value.grad() : at::zeros_like(value);
    }
    return gradients;
  }
};

// |a - b| over the largest |b|: rounding errors of a sum scale with its largest terms.
inline double Difference(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor difference = (a.to(at::kDouble) - b.to(at::kDouble)).abs().max();
  return difference.item<double>() / std::max(1e-30, b.to(at::kDouble).abs().max().item<double>());
}

}  // namespace sdp

#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "common/model/catalog.h"
#include "common/model/neuron_units.h"

namespace sdp {

// Sizes of a residual multilayer perceptron on the pixels of an image: what is left of an image
// model without convolutions and norms.
struct ImageMlpSpec {
  int64_t dim = 0;  // d: residual width
  int64_t layers = 0;
  int64_t ffn_dim = 0;  // f: hidden neurons of a layer
  int64_t inputs = 0;   // numbers of an image
  int64_t classes = 0;
};

// The stages are "stem" (projection of the pixels), then the layers "layers.i",
//   h + fc2(relu(fc1(h))),
// each of one masked unit, then "head" (projection, loss). All maps have biases. Precondition: a
// spec that the config reader accepts.
Catalog ImageMlpCatalog(const ImageMlpSpec& spec);

// Neuron granularity: the same stages and tensors. Units of a stage "layers.i" are "layers.i.0" ..
// "layers.i.G-1" of kind "layer", rows of fc1 with their columns of fc2, whose numbers differ by at
// most one, then the shared "layers.i.bias" of fc2. Precondition: CheckParts.
Catalog ImageMlpNeuronCatalog(const ImageMlpSpec& spec, const NeuronUnits& units);

// InvalidArgument, naming the keys - it cannot be cut into so many groups.
absl::Status CheckParts(const ImageMlpSpec& spec, const NeuronUnits& units);
PartsText PartsTextOf(const ImageMlpSpec& spec, const std::string& stage, const std::string& kind,
                      int64_t parts);

}  // namespace sdp

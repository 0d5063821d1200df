#pragma once

#include <cstdint>

#include "common/model/catalog.h"

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

}  // namespace sdp

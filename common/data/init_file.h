#pragma once

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/data/safetensors.h"
#include "common/model/catalog.h"
#include "common/model/layout.h"

// A file of raw weights (`--init`) as the initial values of a model.
namespace sdp {

// OK if the file has this tensor in its shape and in a readable type. NotFound, InvalidArgument.
absl::Status CheckTensor(const SafetensorsReader& reader, const TensorSpec& wanted);

// OK if the file has exactly the model's tensors, in its shapes and in a readable type.
// InvalidArgument - names the tensor, what the file has and what the model wants.
absl::Status CheckAgainst(const SafetensorsReader& reader, const Catalog& catalog);

// Reads a fragment's values, `out` [fragment size] f32; no other byte of the file is touched.
// NotFound, InvalidArgument - a missing tensor, another shape or type, a value that is not finite.
// DataLoss - the file was cut.
absl::Status ReadFragment(const SafetensorsReader& reader, const Catalog& catalog,
                          const Layout& layout, FragmentId fragment, absl::Span<float> out);

}  // namespace sdp

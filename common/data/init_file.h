#pragma once

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/data/tensor_files.h"
#include "common/model/catalog.h"
#include "common/model/layout.h"

// Files of weights as the values of a model: raw ones (`--init`), or a dense model's.
namespace sdp {

// OK if the files have exactly the model's tensors, in its shapes and in a readable type.
// NotFound, InvalidArgument - names the tensor, what the files have and what the model wants.
absl::Status CheckAgainst(const TensorFiles& files, const Catalog& catalog);

// Reads a fragment's values, `out` [fragment size] f32; no other byte of the files is touched.
// NotFound, InvalidArgument - a missing tensor, another shape or type, a value that is not finite.
// DataLoss - a file was cut.
absl::Status ReadFragment(const TensorFiles& files, const Catalog& catalog, const Layout& layout,
                          FragmentId fragment, absl::Span<float> out);

}  // namespace sdp

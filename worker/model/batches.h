#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "common/model/architectures.h"
#include "worker/data/dataset.h"
#include "worker/model/stage.h"

namespace sdp {

// The samples of a data set as this model takes them. `data` outlives the source.
//   text: of a sample's seq_len + 1 tokens the input [B, L] i64 is all but the last, the target
//         [B, L] i64 all but the first
//   images: the pixels [B, channels, height, width] f32, and the class [B] i64
// InvalidArgument - the data are of another kind than the model takes.
absl::StatusOr<std::unique_ptr<BatchSource>> MakeBatches(const ModelSpec& spec,
                                                         const Dataset& data);

}  // namespace sdp

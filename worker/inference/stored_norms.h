#pragma once

#include "absl/status/status.h"
#include "common/export/stored_model.h"

namespace sdp {

// Gives a model with BatchNorm the statistics that an evaluation of its run learns, of the run's
// training images, unless it has some; any other model stays as it is. `threads` of torch; 0: as it
// chooses. NotFound, InvalidArgument - the images; the model's errors.
absl::Status LearnStoredNorms(StoredModel& model, int threads);

}  // namespace sdp

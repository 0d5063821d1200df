#pragma once

#include <ostream>

#include "absl/status/status.h"
#include "common/export/stored_model.h"
#include "worker/inference/evaluate.h"

namespace sdp {

// `sdp eval` of an image model on images of the kind that it was made for: the mean loss in nats
// and the share of images whose class has the largest logit. JSON: loss, accuracy, samples.
// InvalidArgument - what only language models have is asked for; others as Evaluate.
absl::Status EvaluateImages(const EvaluateRequest& request, StoredModel& model, std::ostream& out);

}  // namespace sdp

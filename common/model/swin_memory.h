#pragma once

#include <cstdint>
#include <vector>

#include "common/model/stage_memory.h"
#include "common/model/swin.h"

namespace sdp {

// What each stage of a catalog of `spec` takes on a worker that has `held`, for `samples` images.
std::vector<StageMemory> SwinMemory(const SwinSpec& spec, int64_t samples, const HeldTensors& held,
                                    const ElementSizes& sizes);

}  // namespace sdp

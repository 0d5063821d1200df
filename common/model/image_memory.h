#pragma once

#include <cstdint>
#include <vector>

#include "common/model/image_mlp.h"
#include "common/model/resnet.h"
#include "common/model/stage_memory.h"

namespace sdp {

// What each stage of a catalog of `spec` takes on a worker that has `held`, for `samples`
// images. The CPU's convolutions (oneDNN) copy weights into an order of their own, which is
// counted; the tens of KiB of scratch that some of them ask for beside, by the CPU's instructions,
// are not.
std::vector<StageMemory> ResnetMemory(const ResnetSpec& spec, int64_t samples,
                                      const HeldTensors& held, const ElementSizes& sizes);
std::vector<StageMemory> ImageMlpMemory(const ImageMlpSpec& spec, int64_t samples,
                                        const HeldTensors& held, const ElementSizes& sizes);

}  // namespace sdp

#pragma once

#include "common/model/resnet.h"
#include "worker/model/stage.h"

namespace sdp {

// The stages of ResnetCatalog. Input [B, C, image_size, image_size] f32, target [B] i64; boundary
// activations [B, width, size, size] f32. Weights by torchvision's names.
Network ResnetNetwork(const ResnetSpec& spec);

}  // namespace sdp

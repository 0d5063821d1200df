#pragma once

#include "common/model/swin.h"
#include "worker/model/stage.h"

namespace sdp {

// The stages of Swin's catalogs. Input [B, C, image_size, image_size] f32, target [B] i64; boundary
// activations [B, L, d] f32, tokens row by row. Weights by torchvision's names.
Network SwinNetwork(const SwinSpec& spec);

}  // namespace sdp

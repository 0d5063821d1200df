#pragma once

#include "common/model/swin.h"
#include "worker/model/stage.h"

namespace sdp {

// The stages of Swin's catalogs. Input [B, C, image_size, image_size] f32, target [B] i64; boundary
// activations [B, L, d] f32, tokens row by row. Weights by torchvision's names. All is on `device`.
Network SwinNetwork(const SwinSpec& spec, at::Device device);

}  // namespace sdp

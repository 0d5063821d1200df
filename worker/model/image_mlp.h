#pragma once

#include "common/model/image_mlp.h"
#include "worker/model/stage.h"

namespace sdp {

// The stages of ImageMlpCatalog. Input [B, ...] f32 of `inputs` numbers a sample, target [B] i64;
// boundary activations [B, d] f32.
Network ImageMlpNetwork(const ImageMlpSpec& spec);

}  // namespace sdp

#pragma once

#include <cstdint>

#include "common/model/architectures.h"
#include "worker/model/stage.h"

namespace sdp {

// The stages of MakeCatalog(spec, ...), on `device`. Samples of text have up to `seq_len` tokens.
Network MakeNetwork(const ModelSpec& spec, int64_t seq_len, at::Device device);

}  // namespace sdp

#pragma once

namespace sdp {

// What a unit of a transformer is where branches are whole (block granularity): attention and MLP
// of a layer, with their norms, or both as one.
enum class TransformerUnit { kSublayer, kLayer };

}  // namespace sdp

#pragma once

namespace sdp {

// What a worker does about the units of the model that it does not hold.
//   kForward   They are absent: the identity in its forward pass. It neither reads nor trains them.
//   kBackward  It reads them and runs the full model forth and back, at factor 1; only their
//              weights' gradients are left out. The gradient of a held block is that of the full
//              model on the worker's samples.
enum class Masking { kForward, kBackward };

}  // namespace sdp

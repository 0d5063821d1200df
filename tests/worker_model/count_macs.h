#pragma once

#include <cstdint>
#include <functional>

namespace sdp {

// The multiply-accumulates of the matrix products, convolutions and attention kernels that torch
// runs on this thread while `f` does, from the sizes of their arguments. Causal attention counts
// half.
int64_t CountMacs(const std::function<void()>& f);

}  // namespace sdp

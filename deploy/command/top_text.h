#pragma once

#include <string>

#include "proto/coordinator.pb.h"

namespace sdp {

// One picture of `sdp top`: at most `height` lines of at most `width` characters, each ended by a
// newline. The worst members come first: those that are silent, then those that wait, then by name;
// where it is narrow, columns are left out. Below them, what happened last, as far as there is
// room. Pure.
std::string TopText(const proto::RunStatus& run, int width, int height);

}  // namespace sdp

#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace sdp {

// Bytes that the control group of this process (of a container, a Pod, a systemd unit) may have:
// the least limit on the way to the root. Cgroups of version 2 and 1. None: there is no limit, or
// none that can be read.
//   `proc`, `cgroups`: where /proc/self and the cgroups are, for tests.
std::optional<int64_t> CgroupMemoryLimit(const std::string& proc = "/proc/self",
                                         const std::string& cgroups = "/sys/fs/cgroup");

}  // namespace sdp

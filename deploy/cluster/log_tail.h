#pragma once

#include <string>

namespace sdp {

// The last lines of a log, for error messages: at most `lines` of them and 8 KiB, without a
// trailing newline. "" - the file is empty or cannot be read.
std::string LastLines(const std::string& path, int lines);

// "; its last log lines (PATH):\n  ...", indented, or "; it logged nothing (PATH)". To be put
// behind what happened.
std::string DescribeLog(const std::string& path);

}  // namespace sdp

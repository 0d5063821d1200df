#pragma once

#include <cstdint>
#include <string>
#include <vector>

// Parts of the text that people read of a run's status. Pure.
namespace sdp {

using Row = std::vector<std::string>;

// Columns as wide as their widest cell, two spaces between them.
std::string TableText(const std::vector<Row>& rows);

std::string MemoryText(int64_t bytes);  // "1.50 GiB", "12.0 MiB"; "-" for none
std::string OrDash(const std::string& text);
std::string StepText(int64_t step);  // "-" for none
// "12s", "1m5s": to the second, below ten to the tenth.
std::string SecondsText(double seconds);

}  // namespace sdp

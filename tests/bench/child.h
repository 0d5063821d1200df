#pragma once

#include <sys/types.h>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

// Programs that a benchmark runs, and the files they read.   Errors: std::runtime_error, which says
// what could not be done. Threads: one.
namespace sdp {

struct Child {
  pid_t pid = -1;
  std::FILE* out = nullptr;  // its standard output, until Finish
};
Child Start(const std::vector<std::string>& command);
// Waits for its end. Throws unless it succeeded; `what` failed.
void Finish(const Child& child, const std::string& what);
// All that a command prints.
std::string Output(const std::vector<std::string>& command);

void WriteFile(const std::filesystem::path& path, const std::string& text);

// Letters; what they say does not matter for time and memory.
std::string RandomText(int64_t bytes);

}  // namespace sdp

#include "deploy/command/worker_command.h"

#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"

namespace sdp {

absl::Status BecomeWorker(const std::string& program_dir, const std::string& name,
                          const std::vector<std::string>& args) {
  const std::string program = program_dir + "/sdp-worker";
  std::vector<const char*> argv = {program.c_str(), name.c_str()};
  for (const std::string& arg : args) argv.push_back(arg.c_str());
  argv.push_back(nullptr);
  execv(program.c_str(), const_cast<char* const*>(argv.data()));
  return absl::ErrnoToStatus(errno, absl::StrCat("`sdp ", name, "` runs ", program));
}

}  // namespace sdp

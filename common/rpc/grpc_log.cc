#include "common/rpc/grpc_log.h"

#include <grpc/support/log.h>

#include <cstdio>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "common/base/mutex.h"

namespace sdp {
namespace {

constexpr absl::Duration kPause = absl::Seconds(1);

struct Place {
  absl::Time said = absl::InfinitePast();
  int silent = 0;  // since then
};

// Lines that are wanted for debugging (GRPC_VERBOSITY, GRPC_TRACE) all come.
void Log(gpr_log_func_args* args) {
  static auto* const mutex = new Mutex();  // Never destroyed: gRPC logs until the process is gone.
  static auto* const places = new std::map<std::pair<std::string, int>, Place>();
  const absl::Time now = absl::Now();
  std::string silent;
  if (args->severity == GPR_LOG_SEVERITY_ERROR) {
    MutexLock lock(mutex);
    Place& place = (*places)[{args->file, args->line}];
    if (now < place.said + kPause) {
      ++place.silent;
      return;
    }
    if (place.silent > 0) silent = absl::StrCat(", and ", place.silent, " before it");
    place = {now, 0};
  }
  absl::string_view file = args->file;
  file.remove_prefix(file.rfind('/') + 1);  // none: npos + 1 is 0
  const std::string line =
      absl::StrCat(absl::FormatTime("%Y-%m-%d %H:%M:%E3S", now, absl::LocalTimeZone()), " gRPC ",
                   gpr_log_severity_string(args->severity), ": ", args->message, " (", file, ":",
                   args->line, silent, ")\n");
  std::fwrite(line.data(), 1, line.size(), stderr);
}

}  // namespace

void LimitGrpcLog() { gpr_set_log_function(&Log); }

}  // namespace sdp

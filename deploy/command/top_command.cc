#include "deploy/command/top_command.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include "common/base/status.h"
#include "deploy/command/run_calls.h"
#include "deploy/command/run_files.h"
#include "deploy/command/top_text.h"

namespace sdp {
namespace {

constexpr char kHomeAndClear[] = "\x1b[H\x1b[2J";

struct Screen {
  bool terminal = false;
  int width = 160, height = 50;
};

Screen ScreenNow() {
  Screen screen;
  winsize size = {};
  screen.terminal = isatty(STDOUT_FILENO) != 0;
  if (screen.terminal && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    screen.width = size.ws_col;
    screen.height = size.ws_row - 1;  // the cursor's line
  }
  return screen;
}

}  // namespace

absl::Status RunTopCommand(const TopCommand& command, std::ostream& out) {
  SDP_ASSIGN_OR_RETURN(const std::string address, TargetAddress(command.target, command.security));
  proto::WatchStatusRequest request;
  request.mutable_options()->set_interval_sec(command.interval_sec);
  int frames = 0;
  return WatchRunStatus(address, command.security, request, [&](const proto::RunStatus& run) {
    const Screen screen = ScreenNow();
    if (screen.terminal) out << kHomeAndClear;
    out << TopText(run, screen.width, screen.height) << (screen.terminal ? "" : "\n") << std::flush;
    ++frames;
    return run.phase() != "over" && frames != command.frames;
  });
}

}  // namespace sdp

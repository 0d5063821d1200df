#include "deploy/command/top_command.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/base/status.h"
#include "deploy/command/run_calls.h"
#include "deploy/command/run_files.h"
#include "deploy/command/top_text.h"

namespace sdp {
namespace {

// Codes of terminals. What is drawn over what was there does not flicker.
constexpr char kClear[] = "\x1b[2J", kHome[] = "\x1b[H", kClearLine[] = "\x1b[K",
               kClearBelow[] = "\x1b[J";
constexpr char kHowToLeave[] = "Ctrl-C leaves; the run goes on";

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
    screen.height = size.ws_row - 1;  // the last line says how to leave
  }
  return screen;
}

void Draw(const std::string& text, std::ostream& out) {
  out << kHome;
  out << absl::StrReplaceAll(text, {{"\n", absl::StrCat(kClearLine, "\n")}});
  out << kClearBelow;
}

}  // namespace

absl::Status RunTopCommand(const TopCommand& command, std::ostream& out) {
  SDP_ASSIGN_OR_RETURN(const std::string address, TargetAddress(command.target, command.security));
  proto::WatchStatusRequest request;
  request.mutable_options()->set_interval_sec(command.interval_sec);
  int frames = 0;
  if (ScreenNow().terminal) out << kClear;
  const absl::Status watched =
      WatchRunStatus(address, command.security, request, [&](const proto::RunStatus& run) {
        const Screen screen = ScreenNow();
        const std::string text = TopText(run, screen.width, screen.height);
        const bool last = run.phase() == "over" || ++frames == command.frames;
        if (screen.terminal) {
          Draw(text, out);
          if (!last) out << kHowToLeave;
        } else {
          out << text << '\n';
        }
        out << std::flush;
        return !last;
      });
  if (!absl::IsUnavailable(watched) || !std::filesystem::is_directory(command.target))
    return watched;
  const auto owner = RunOwner(command.target);
  if (!owner.ok() || *owner) return watched;
  return absl::FailedPreconditionError(
      absl::StrCat("no process has the run in ", command.target, " any more: sdp status ",
                   command.target, " says how it ended (", watched.message(), ")"));
}

}  // namespace sdp

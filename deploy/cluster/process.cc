#include "deploy/cluster/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/status.h"

namespace sdp {
namespace {

constexpr absl::Duration kUnkillableAfter = absl::Seconds(5);

// A file descriptor that is closed when it goes out of scope.
class OwnedFd {
 public:
  explicit OwnedFd(int fd = -1) : fd_(fd) {}
  ~OwnedFd() { Close(); }
  OwnedFd(const OwnedFd&) = delete;
  OwnedFd& operator=(const OwnedFd&) = delete;
  int get() const { return fd_; }
  void Reset(int fd) {
    Close();
    fd_ = fd;
  }
  void Close() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }

 private:
  int fd_;
};

absl::Status OpenOutput(const std::string& path, OwnedFd* file) {
  if (path.empty()) return absl::OkStatus();
  file->Reset(open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (file->get() < 0) return absl::ErrnoToStatus(errno, absl::StrCat("open ", path));
  return absl::OkStatus();
}

// Everything the child needs between fork and exec, made before: there it may only make system
// calls, since another thread may have held any lock at the fork.
struct ChildSetup {
  pid_t parent;
  int input;
  int output;  // -1: our own.
  int errors;
  int report;  // Where the errno of a failed exec goes.
  const char* program;
  char* const* argv;
};

[[noreturn]] void BecomeChild(const ChildSetup& setup) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);           // Survives exec.
  if (getppid() != setup.parent) _exit(127);  // The parent was gone before the line above.
  struct sigaction ignore = {};
  ignore.sa_handler = SIG_IGN;
  sigaction(SIGINT, &ignore, nullptr);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);  // We may wait for signals by blocking them.
  dup2(setup.input, STDIN_FILENO);
  if (setup.output >= 0) dup2(setup.output, STDOUT_FILENO);
  if (setup.errors >= 0) dup2(setup.errors, STDERR_FILENO);
  // Also what a library opened without O_CLOEXEC.
  syscall(SYS_close_range, STDERR_FILENO + 1, ~0U, /*CLOSE_RANGE_CLOEXEC*/ 4U);
  execv(setup.program, setup.argv);
  const int error = errno;
  [[maybe_unused]] const ssize_t written = write(setup.report, &error, sizeof(error));
  _exit(127);
}

// The errno of the child's exec; 0 - it was executed, which closed the pipe.
int ExecError(int pipe) {
  int error = 0;
  ssize_t size;
  do {
    size = read(pipe, &error, sizeof(error));
  } while (size < 0 && errno == EINTR);
  return size == sizeof(error) ? error : 0;
}

int MillisecondsUntil(absl::Time deadline) {
  if (deadline == absl::InfiniteFuture()) return -1;
  const int64_t left = absl::ToInt64Milliseconds(
      absl::Ceil(deadline - absl::Now(), absl::Milliseconds(1)));  // Rounded down it would spin.
  return static_cast<int>(std::clamp<int64_t>(left, 0, std::numeric_limits<int>::max()));
}

}  // namespace

std::string Describe(ExitStatus status) {
  if (status.signal == 0) return absl::StrCat("exit status ", status.code);
  const char* text = sigdescr_np(status.signal);
  return absl::StrCat("signal ", status.signal,
                      text == nullptr ? "" : absl::StrCat(" (", text, ")"));
}

bool PollUntil(absl::Span<pollfd> fds, absl::Time deadline) {
  while (true) {
    const int ready = poll(fds.data(), fds.size(), MillisecondsUntil(deadline));
    if (ready > 0) return true;
    if (ready == 0 && absl::Now() >= deadline) return false;
  }
}

absl::StatusOr<std::unique_ptr<Process>> Process::Start(const Options& options) {
  OwnedFd input(open("/dev/null", O_RDONLY | O_CLOEXEC));
  OwnedFd output;
  OwnedFd errors;
  SDP_RETURN_IF_ERROR(OpenOutput(options.stdout_path, &output));
  SDP_RETURN_IF_ERROR(OpenOutput(options.stderr_path, &errors));
  int report[2];
  if (pipe2(report, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "pipe");
  OwnedFd report_read(report[0]);
  OwnedFd report_write(report[1]);

  std::vector<char*> argv = {const_cast<char*>(options.program.c_str())};
  for (const std::string& arg : options.args) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);
  const ChildSetup setup = {getpid(),     input.get(),        output.get(),
                            errors.get(), report_write.get(), options.program.c_str(),
                            argv.data()};
  const pid_t pid = fork();
  if (pid < 0) return absl::ErrnoToStatus(errno, absl::StrCat("start ", options.program));
  if (pid == 0) BecomeChild(setup);

  report_write.Close();
  // Not reaped yet, so the number is still its own. (The C library's header for this cannot be
  // included from C++.)
  const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  if (pidfd < 0) {
    const int error = errno;
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    return absl::ErrnoToStatus(error, "pidfd_open");
  }
  std::unique_ptr<Process> process(new Process(options.name, pid, pidfd));
  if (const int error = ExecError(report_read.get()); error != 0) {
    return absl::ErrnoToStatus(error, absl::StrCat("execute ", options.program));
  }
  return process;
}

Process::Process(std::string name, pid_t pid, int pidfd)
    : name_(std::move(name)), pid_(pid), pidfd_(pidfd) {}

Process::~Process() {
  if (!Ended()) {
    Signal(SIGKILL);
    WaitUntil(absl::Now() + kUnkillableAfter);
  }
  close(pidfd_);
}

std::optional<ExitStatus> Process::Ended() {
  if (ended_) return ended_;
  int status = 0;
  pid_t reaped;
  do {
    reaped = waitpid(pid_, &status, WNOHANG);
  } while (reaped < 0 && errno == EINTR);
  if (reaped == pid_) {
    ended_ = WIFSIGNALED(status) ? ExitStatus{.signal = WTERMSIG(status)}
                                 : ExitStatus{.code = WEXITSTATUS(status)};
  }
  return ended_;
}

std::optional<ExitStatus> Process::WaitUntil(absl::Time deadline) {
  if (Ended()) return ended_;
  struct pollfd wait = {.fd = pidfd_, .events = POLLIN, .revents = 0};
  PollUntil(absl::MakeSpan(&wait, 1), deadline);
  return Ended();
}

void Process::Signal(int signal) {
  if (ended_) return;
  syscall(SYS_pidfd_send_signal, pidfd_, signal, nullptr, 0);
}

std::vector<std::string> EndAll(absl::Span<const std::unique_ptr<Process>> processes,
                                absl::Duration grace) {
  const absl::Time begin = absl::Now();
  for (const auto& process : processes) process->Signal(SIGTERM);
  for (const auto& process : processes) {
    if (!process->WaitUntil(begin + grace / 5)) process->Signal(SIGTERM);
  }
  std::vector<std::string> killed;
  for (const auto& process : processes) {
    if (process->WaitUntil(begin + grace)) continue;
    killed.push_back(process->name());
    process->Signal(SIGKILL);
  }
  const absl::Time give_up = absl::Now() + kUnkillableAfter;
  for (const auto& process : processes) process->WaitUntil(give_up);
  return killed;
}

}  // namespace sdp

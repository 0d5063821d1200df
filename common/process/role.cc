#include "common/process/role.h"

#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <initializer_list>
#include <iostream>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/process/security_flags.h"

namespace sdp {
namespace {

// SIGINT and SIGTERM, but for one that is ignored: blocked, it would be queued all the same.
sigset_t StopSignals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : {SIGINT, SIGTERM}) {
    struct sigaction action = {};
    sigaction(number, nullptr, &action);
    if (action.sa_handler != SIG_IGN) sigaddset(&set, number);
  }
  return set;
}

}  // namespace

void AddRoleFlags(CLI::App& app, RoleFlags* flags) {
  app.add_option("--config", flags->config, "the run's configuration (TOML)")->required();
  app.add_option("--set", flags->sets, "section.key=value: overrides a value of the configuration")
      ->allow_extra_args(false);
  // Behind --set, which replaces the whole list; before its values, which win.
  AddSecurityFlags(app, [flags](const std::string& key, const std::string& file) {
    flags->sets.insert(flags->sets.begin(), absl::StrCat("security.", key, "=", file));
  });
  app.add_option("--metrics", flags->metrics,
                 "also serve /metrics for Prometheus, in plain HTTP, at HOST:PORT (port 0: any "
                 "free one)")
      ->type_name("ADDR");
  app.add_flag("--insecure", flags->insecure, "allow plaintext beyond this machine's loopback");
  app.add_flag("--plain-http", flags->plain_http,
               "allow that for what is served in plain HTTP, and for nothing else");
  app.add_flag("--die-with-parent", flags->die_with_parent,
               "end when the parent process is gone; leave Ctrl-C to it");
  app.add_flag("--supervised", flags->supervised,
               "for a process that something starts again whenever it ends, as Kubernetes does: a "
               "signal ends it and never the run, and it comes to terms with a run that is "
               "finished (deploy/README.md)");
}

void BeginRole(const RoleFlags& flags) {
  KeepMutexesCheap();
  AllowManyDescriptors();
  const pid_t parent = getppid();
  if (flags.die_with_parent) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    signal(SIGINT, SIG_IGN);
  }
  // Threads started later inherit this: a signal that one of them did not block would end the
  // process on the spot.
  const sigset_t set = StopSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  if (flags.die_with_parent && getppid() != parent) raise(SIGTERM);  // it went in between

  auto logger = spdlog::stderr_logger_mt(flags.name);
  logger->set_pattern("%Y-%m-%d %H:%M:%S.%e %n %l: %v");
  logger->flush_on(spdlog::level::trace);
  spdlog::set_default_logger(std::move(logger));
}

void AllowManyDescriptors() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

void KeepMutexesCheap() { absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore); }

void KeepFreedMemory() {
  // Below the threshold buffers come from heaps, above it each is mapped and unmapped; 32 MiB is
  // the most glibc allows.
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
}

uint64_t RandomInstance() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

void Leave(const std::string& name, const absl::Status& status) {
  if (!status.ok()) std::cerr << name << ": " << status.message() << std::endl;
  std::cout << std::flush;
  std::fflush(nullptr);
  _exit(status.ok() ? 0 : absl::IsCancelled(status) ? 130 : 1);
}

StopOnSignal::StopOnSignal(std::function<void(const std::string&)> stop) : stop_(std::move(stop)) {
  const sigset_t set = StopSignals();
  signals_ = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  wake_ = eventfd(0, EFD_CLOEXEC);
  thread_ = std::thread([this] {
    bool asked = false;
    for (;;) {
      pollfd fds[] = {{signals_, POLLIN, 0}, {wake_, POLLIN, 0}};
      if (poll(fds, 2, -1) < 0) continue;
      if (fds[1].revents != 0) return;
      signalfd_siginfo info;
      if (read(signals_, &info, sizeof(info)) != sizeof(info)) continue;
      if (asked) _exit(128 + static_cast<int>(info.ssi_signo));
      asked = true;
      stop_(info.ssi_signo == SIGTERM ? "SIGTERM" : "SIGINT");
    }
  });
}

StopOnSignal::~StopOnSignal() {
  const uint64_t one = 1;
  if (write(wake_, &one, sizeof(one)) == sizeof(one)) thread_.join();
  close(wake_);
  close(signals_);
}

}  // namespace sdp

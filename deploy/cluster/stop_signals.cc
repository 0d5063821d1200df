#include "deploy/cluster/stop_signals.h"

#include <sys/signalfd.h>
#include <unistd.h>

#include <initializer_list>

namespace sdp {
namespace {

// A blocked signal is queued even if it is ignored, so an ignored one must be left out.
sigset_t NotIgnored() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGINT, SIGTERM}) {
    struct sigaction action = {};
    sigaction(signal, nullptr, &action);
    if (action.sa_handler != SIG_IGN) sigaddset(&set, signal);
  }
  return set;
}

}  // namespace

StopSignals::StopSignals() {
  const sigset_t set = NotIgnored();
  pthread_sigmask(SIG_BLOCK, &set, &before_);
  fd_ = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

StopSignals::~StopSignals() {
  while (Take() != 0) {  // Else one that came too late would kill us at the unblocking.
  }
  pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  close(fd_);
}

int StopSignals::Take() {
  signalfd_siginfo info;
  return read(fd_, &info, sizeof(info)) == sizeof(info) ? static_cast<int>(info.ssi_signo) : 0;
}

}  // namespace sdp

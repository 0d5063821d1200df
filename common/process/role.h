#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"

namespace CLI {
class App;
}

// What the mains of all roles share: flags, the tie to a parent, signals, logging.
namespace sdp {

struct RoleFlags {
  std::string config;             // path of the TOML file
  std::vector<std::string> sets;  // section.key=value
  std::string coordinator;        // address
  std::string name;
  std::string metrics;  // address of /metrics; "": none
  bool insecure = false;
  bool plain_http = false;
  bool die_with_parent = false;
  bool supervised = false;
};

void AddRoleFlags(CLI::App& app, RoleFlags* flags);

// Call first of all, before there are other threads. Logs go to stderr with the role's name from
// now on; SIGINT and SIGTERM wait for StopOnSignal. With --die-with-parent the process gets SIGTERM
// when its parent is gone, and leaves SIGINT (Ctrl-C reaches the whole group) to the parent.
void BeginRole(const RoleFlags& flags);

// For processes through which large buffers pass all the time: the allocator keeps what is freed
// instead of returning it to the kernel, which would have to clear each page again. Call early.
void KeepFreedMemory();

// Raises the limit on open files as far as the process may. gRPC 1.51 stops listening for good when
// a connection comes that would be one too many, and strangers may open some; BeginRole does it.
void AllowManyDescriptors();

// Debian's Abseil looks for deadlocks at every lock. Tests keep that; BeginRole ends it.
void KeepMutexesCheap();

// A random number that tells this process from others of the same name.
uint64_t RandomInstance();

// Ends the process with 0 for OK, 130 for Cancelled (stopped on request), else 1, after saying why
// on stderr. Statics are not destroyed: threads of gRPC and LibTorch may still use them.
[[noreturn]] void Leave(const std::string& name, const absl::Status& status);

// Calls `stop` on a thread of its own at SIGTERM, and at SIGINT unless that is ignored; a second
// signal ends the process at once. Make it before other threads. The destructor joins.
class StopOnSignal {
 public:
  explicit StopOnSignal(std::function<void(const std::string& signal)> stop);
  ~StopOnSignal();
  StopOnSignal(const StopOnSignal&) = delete;
  StopOnSignal& operator=(const StopOnSignal&) = delete;

 private:
  const std::function<void(const std::string&)> stop_;
  int signals_ = -1;  // signalfd
  int wake_ = -1;     // eventfd, for the destructor
  std::thread thread_;
};

}  // namespace sdp

#include "tests/bench/pipes.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace sdp {
namespace {

[[noreturn]] void Fail(const char* what) {
  std::perror(what);
  std::abort();
}

}  // namespace

Pipes::~Pipes() {
  close(in_);
  close(out_);
}

bool Pipes::ReadLine(std::string* line) {
  line->clear();
  for (char c; read(in_, &c, 1) == 1;) {
    if (c == '\n') return true;
    line->push_back(c);
  }
  return false;
}

void Pipes::WriteLine(const std::string& line) {
  const std::string all = line + "\n";
  if (write(out_, all.data(), all.size()) != static_cast<ssize_t>(all.size())) Fail("write");
}

Child::Child(const std::function<void(Pipes&)>& run) {
  int down[2], up[2];
  // Not inherited by an exec; children forked later close what they inherit by exiting first.
  if (pipe2(down, O_CLOEXEC) != 0 || pipe2(up, O_CLOEXEC) != 0) Fail("pipe");
  std::fflush(stdout);
  pid_ = fork();
  if (pid_ < 0) Fail("fork");
  if (pid_ == 0) {
    close(down[1]);
    close(up[0]);
    {
      Pipes parent(down[0], up[1]);
      run(parent);
    }
    _exit(0);  // without destroying statics: gRPC's threads may still use them
  }
  close(down[0]);
  close(up[1]);
  pipes_ = new Pipes(up[0], down[1]);
}

Child::~Child() {
  delete pipes_;
  int status = 0;
  if (waitpid(pid_, &status, 0) != pid_ || status != 0) Fail("a process of the benchmark failed");
}

std::string Child::ReadLine() {
  std::string line;
  if (!pipes_->ReadLine(&line)) Fail("a process of the benchmark is gone");
  return line;
}

}  // namespace sdp

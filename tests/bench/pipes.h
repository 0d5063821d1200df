#pragma once

#include <sys/types.h>

#include <functional>
#include <string>

namespace sdp {

// Two processes that talk in lines. Threads: confined to one.
class Pipes {
 public:
  Pipes(int in, int out) : in_(in), out_(out) {}
  ~Pipes();
  Pipes(const Pipes&) = delete;
  Pipes& operator=(const Pipes&) = delete;

  bool ReadLine(std::string* line);  // false: the other end is closed
  void WriteLine(const std::string& line);

 private:
  const int in_, out_;
};

// A forked process that runs `run` and exits; the destructor closes its pipes and waits for it.
// Fork before there are threads. Aborts when the child does not end with 0.
class Child {
 public:
  explicit Child(const std::function<void(Pipes& parent)>& run);
  ~Child();

  std::string ReadLine();  // aborts if the child is gone
  void WriteLine(const std::string& line) { pipes_->WriteLine(line); }

 private:
  pid_t pid_ = -1;
  Pipes* pipes_ = nullptr;
};

}  // namespace sdp

// Plays any role of a run: does what the lines "#! NAME: COMMAND [ARGUMENT]" of the config file say
// for its --name, in their order. So one file tells a whole story, and is still a config file for
// those who read it as such. Ends by itself after a minute, whatever it waits for.
//   folder PATH         makes a folder
//   address TEXT        writes TEXT to --address-file
//   args PATH           writes the command line to a file, one argument per line
//   write PATH TEXT     appends a line to a file
//   out|err TEXT        prints a line
//   await|tell PATH     waits until someone opens this fifo for writing|reading
//   hold PATH           opens this fifo for writing until the process ends
//   drain PATH          waits until nobody holds this fifo any more
//   interrupt-parent    sends SIGINT to the process that started this one
//   ignore-term         ignores SIGTERM from now on
//   pause               waits for a signal
//   raise N, exit N     ends (at the end of the script: exit 0)
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace {

int Number(const std::string& text) {
  int number = 0;
  if (!absl::SimpleAtoi(text, &number)) exit(99);
  return number;
}

void OpenFifo(const std::string& path, int mode) {
  const int fd = open(path.c_str(), mode | O_CLOEXEC);
  if (fd < 0) exit(98);
  close(fd);
}

void Do(const std::string& command, const std::string& argument,
        const std::map<std::string, std::string>& flags, const std::vector<std::string>& args) {
  if (command == "folder") {
    if (mkdir(argument.c_str(), 0755) != 0) exit(97);
  } else if (command == "address") {
    std::ofstream(flags.at("--address-file")) << argument << "\n";
  } else if (command == "args") {
    std::ofstream file(argument);
    for (const std::string& arg : args) file << arg << "\n";
  } else if (command == "write") {
    const size_t space = argument.find(' ');
    std::ofstream(argument.substr(0, space), std::ios::app) << argument.substr(space + 1) << "\n";
  } else if (command == "out") {
    std::cout << argument << std::endl;
  } else if (command == "err") {
    std::cerr << argument << std::endl;
  } else if (command == "await") {
    OpenFifo(argument, O_RDONLY);
  } else if (command == "tell") {
    OpenFifo(argument, O_WRONLY);
  } else if (command == "hold") {
    if (open(argument.c_str(), O_WRONLY | O_CLOEXEC) < 0) exit(98);
  } else if (command == "drain") {
    std::ifstream fifo(argument);
    while (fifo.get() != EOF) {
    }
  } else if (command == "interrupt-parent") {
    kill(getppid(), SIGINT);
  } else if (command == "ignore-term") {
    signal(SIGTERM, SIG_IGN);
  } else if (command == "pause") {
    while (true) pause();
  } else if (command == "raise") {
    raise(Number(argument));
  } else if (command == "exit") {
    exit(Number(argument));
  } else {
    std::cerr << "fake role: no such command: " << command << std::endl;
    exit(96);
  }
}

}  // namespace

int main(int argc, char** argv) {
  alarm(60);
  const std::vector<std::string> args(argv + 1, argv + argc);
  std::map<std::string, std::string> flags;
  for (size_t i = 0; i + 1 < args.size(); ++i) flags[args[i]] = args[i + 1];
  const std::string prefix = absl::StrCat("#! ", flags["--name"], ": ");
  std::ifstream script(flags["--config"]);
  for (std::string line; std::getline(script, line);) {
    if (!absl::StartsWith(line, prefix)) continue;
    line = line.substr(prefix.size());
    const size_t space = line.find(' ');
    Do(line.substr(0, space), space == std::string::npos ? "" : line.substr(space + 1), flags,
       args);
  }
  return 0;
}

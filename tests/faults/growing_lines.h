#pragma once

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace sdp {

// The lines of a JSON-lines file that another process writes, as they come: each is read once, and
// only when it is whole. Threads: one.
class GrowingLines {
 public:
  explicit GrowingLines(std::filesystem::path path) : path_(std::move(path)) {}

  // All so far. None while there is no file.
  const std::vector<nlohmann::json>& Read() {
    std::ifstream file(path_);
    file.seekg(static_cast<std::streamoff>(read_));
    const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    for (size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos;
         begin = end + 1) {
      lines_.push_back(nlohmann::json::parse(text.substr(begin, end - begin)));
      read_ += end + 1 - begin;
    }
    return lines_;
  }

 private:
  std::filesystem::path path_;
  size_t read_ = 0;  // bytes, of whole lines
  std::vector<nlohmann::json> lines_;
};

}  // namespace sdp

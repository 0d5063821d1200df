#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"

// Files that tests write and read.
namespace sdp {

// Paths to remove when the process ends.
class FilesToRemove {
 public:
  ~FilesToRemove() {
    for (const std::string& path : paths_) unlink(path.c_str());
  }
  void Add(const std::string& path) { paths_.insert(path); }

 private:
  std::set<std::string> paths_;
};

// Writes `bytes` to a file of this process alone, which it leaves with the process; returns its
// path.
inline std::string WriteFile(absl::string_view name, absl::string_view bytes) {
  static FilesToRemove files;
  const std::string path = absl::StrCat(::testing::TempDir(), "sdp_", getpid(), "_", name);
  files.Add(path);
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  out.close();
  EXPECT_TRUE(out.good()) << path;
  return path;
}

template <typename T>
std::string AsBytes(const std::vector<T>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

struct TensorToWrite {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};

// A safetensors file with this header text and data.
inline std::string SafetensorsBytes(const std::string& header, absl::string_view data) {
  uint64_t length = header.size();
  std::string bytes(reinterpret_cast<const char*>(&length), sizeof(length));
  absl::StrAppend(&bytes, header, data);
  return bytes;
}

// A well-formed one. Names are written as they are: no quotes or backslashes.
inline std::string SafetensorsBytes(const std::vector<TensorToWrite>& tensors) {
  std::string header = "{\"__metadata__\":{\"format\":\"pt\"}", data;
  for (const TensorToWrite& tensor : tensors) {
    absl::StrAppend(&header, ",\"", tensor.name, "\":{\"dtype\":\"", tensor.dtype, "\",\"shape\":[",
                    absl::StrJoin(tensor.shape, ","), "],\"data_offsets\":[", data.size(), ",",
                    data.size() + tensor.bytes.size(), "]}");
    data += tensor.bytes;
  }
  return SafetensorsBytes(header + "}", data);
}

}  // namespace sdp

#include "common/data/safetensors_writer.h"

#include <errno.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/data/safetensors.h"

namespace sdp {

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(
    const std::string& path, const std::vector<Tensor>& tensors, const Metadata& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) {
    auto& object = header["__metadata__"];
    for (const auto& [key, value] : metadata) object[key] = value;
  }
  absl::flat_hash_set<std::string> names = {"__metadata__"};
  int64_t offset = 0;
  for (const Tensor& tensor : tensors) {
    const int64_t element_bytes = SafetensorsTypeBytes(tensor.dtype);
    if (element_bytes == 0 || tensor.name.empty() || !names.insert(tensor.name).second) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": tensor \"", tensor.name, "\" of type ", tensor.dtype,
                       ": the name comes twice or the type is unknown"));
    }
    int64_t bytes = element_bytes;
    for (const int64_t size : tensor.shape) bytes *= size;
    header[tensor.name] = {{"dtype", tensor.dtype},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // so that the data begins aligned

  std::FILE* const file = std::fopen(path.c_str(), "wbe");
  if (file == nullptr) return absl::ErrnoToStatus(errno, absl::StrCat("write ", path));
  const uint64_t length = text.size();
  std::unique_ptr<SafetensorsWriter> writer(new SafetensorsWriter(
      path, file, static_cast<int64_t>(sizeof(length) + text.size()), offset));
  if (std::fwrite(&length, sizeof(length), 1, file) != 1 ||
      std::fwrite(text.data(), 1, text.size(), file) != text.size()) {
    return writer->Fail("write");
  }
  return writer;
}

SafetensorsWriter::SafetensorsWriter(std::string path, std::FILE* file, int64_t header_bytes,
                                     int64_t data_bytes)
    : path_(std::move(path)), file_(file), header_bytes_(header_bytes), data_bytes_(data_bytes) {}

SafetensorsWriter::~SafetensorsWriter() {
  if (file_ == nullptr) return;
  std::fclose(file_);
  unlink(path_.c_str());
}

absl::Status SafetensorsWriter::Fail(const char* doing) {
  return absl::ErrnoToStatus(errno, absl::StrCat(doing, " ", path_));
}

absl::Status SafetensorsWriter::Append(absl::string_view bytes) {
  if (static_cast<int64_t>(bytes.size()) > data_bytes_ - written_) {
    return absl::InternalError(
        absl::StrCat(path_, ": more bytes than its tensors have, ", data_bytes_));
  }
  if (std::fwrite(bytes.data(), 1, bytes.size(), file_) != bytes.size()) return Fail("write");
  written_ += static_cast<int64_t>(bytes.size());
  unsynced_ += static_cast<int64_t>(bytes.size());
  // Now and then, so that Finish has no minutes to wait and a slow disk shows in between.
  constexpr int64_t kSyncEvery = int64_t{256} << 20;
  if (unsynced_ >= kSyncEvery) {
    if (std::fflush(file_) != 0 || fdatasync(fileno(file_)) != 0) return Fail("write");
    unsynced_ = 0;
  }
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Finish() {
  if (written_ != data_bytes_) {
    return absl::InternalError(
        absl::StrCat(path_, ": ", written_, " bytes of data were given, it has ", data_bytes_));
  }
  if (std::fflush(file_) != 0 || fsync(fileno(file_)) != 0) return Fail("write");
  std::FILE* const file = std::exchange(file_, nullptr);
  if (std::fclose(file) == 0) return absl::OkStatus();
  const absl::Status status = Fail("close");
  unlink(path_.c_str());
  return status;
}

}  // namespace sdp

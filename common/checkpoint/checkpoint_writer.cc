#include "common/checkpoint/checkpoint_writer.h"

#include <errno.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/hash.h"
#include "common/base/status.h"
#include "common/checkpoint/checkpoint_reader.h"
#include "common/data/small_file.h"

namespace sdp {
namespace {

namespace fs = std::filesystem;

absl::Status FromError(const std::error_code& error, const std::string& doing) {
  return error ? absl::ErrnoToStatus(error.value(), doing) : absl::OkStatus();
}

absl::string_view Bytes(absl::Span<const float> values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

std::vector<SafetensorsWriter::Tensor> Tensors(
    const std::vector<CheckpointFileWriter::Fragment>& fragments, size_t moments) {
  std::vector<SafetensorsWriter::Tensor> tensors;
  for (const auto& fragment : fragments) {
    tensors.push_back({ValueTensor(fragment.id), "F32", {fragment.size}});
    for (size_t m = 0; m < moments; ++m) {
      tensors.push_back({MomentTensor(fragment.id, m), "F32", {fragment.size}});
    }
  }
  return tensors;
}

}  // namespace

absl::StatusOr<std::unique_ptr<CheckpointFileWriter>> CheckpointFileWriter::Create(
    const std::string& path, const std::string& name, std::vector<Fragment> fragments,
    int moments) {
  std::error_code error;
  fs::create_directories(path, error);
  SDP_RETURN_IF_ERROR(FromError(error, absl::StrCat("make ", path)));
  SDP_ASSIGN_OR_RETURN(
      std::unique_ptr<SafetensorsWriter> file,
      SafetensorsWriter::Create(absl::StrCat(path, "/", name),
                                Tensors(fragments, static_cast<size_t>(moments)),
                                {{"format", absl::StrCat("sdp checkpoint ", kCheckpointFormat)}}));
  std::unique_ptr<CheckpointFileWriter> writer(
      new CheckpointFileWriter(path, std::move(fragments), moments, std::move(file)));
  writer->result_.name = name;
  return writer;
}

CheckpointFileWriter::CheckpointFileWriter(std::string folder, std::vector<Fragment> fragments,
                                           int moments, std::unique_ptr<SafetensorsWriter> file)
    : folder_(std::move(folder)),
      fragments_(std::move(fragments)),
      moments_(static_cast<size_t>(moments)),
      file_(std::move(file)) {}

absl::Status CheckpointFileWriter::Add(absl::Span<const float> value,
                                       const std::vector<absl::Span<const float>>& moments,
                                       int64_t updates) {
  const size_t index = result_.fragments.size();
  if (index == fragments_.size() || moments.size() != moments_ ||
      static_cast<int64_t>(value.size()) != fragments_[index].size) {
    return absl::InternalError(absl::StrCat("checkpoint file ", result_.name, ": fragment number ",
                                            index, " is not the one that was announced"));
  }
  CheckpointManifest::Entry entry{
      fragments_[index].id, fragments_[index].size, updates, Hash64(Bytes(value)), {}};
  SDP_RETURN_IF_ERROR(file_->Append(Bytes(value)));
  for (const absl::Span<const float> moment : moments) {
    entry.moments.push_back(Hash64(Bytes(moment)));
    SDP_RETURN_IF_ERROR(file_->Append(Bytes(moment)));
  }
  result_.fragments.push_back(std::move(entry));
  return absl::OkStatus();
}

absl::StatusOr<CheckpointManifest::File> CheckpointFileWriter::Finish() {
  SDP_RETURN_IF_ERROR(file_->Finish());
  SDP_RETURN_IF_ERROR(SyncFolder(folder_));
  result_.bytes = file_->file_bytes();
  return std::move(result_);
}

absl::Status WriteManifest(const std::string& path, const CheckpointManifest& manifest) {
  const std::string target = absl::StrCat(path, "/", kManifestName);
  const std::string temporary = target + ".partial";
  const absl::Status written = WriteTextFile(temporary, ManifestJson(manifest));
  if (!written.ok()) {
    std::error_code ignored;
    fs::remove(temporary, ignored);
    return written;
  }
  if (std::rename(temporary.c_str(), target.c_str()) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("rename to ", target));
  }
  SDP_RETURN_IF_ERROR(SyncFolder(path));
  return SyncFolder(fs::path(path).parent_path().string());
}

absl::Status RemoveCheckpoint(const std::string& path) {
  std::error_code error;
  if (fs::remove(fs::path(path) / kManifestName, error)) {
    SDP_RETURN_IF_ERROR(SyncFolder(path));
  }
  SDP_RETURN_IF_ERROR(FromError(error, absl::StrCat("remove ", path, "/", kManifestName)));
  fs::remove_all(path, error);
  return FromError(error, absl::StrCat("remove ", path));
}

absl::Status RemoveOldCheckpoints(const std::string& folder, int keep) {
  SDP_ASSIGN_OR_RETURN(const std::vector<Step> steps, ListCheckpoints(folder));
  const size_t kept = static_cast<size_t>(std::max(keep, 1));
  for (size_t i = 0; i + kept < steps.size(); ++i) {
    SDP_RETURN_IF_ERROR(RemoveCheckpoint(absl::StrCat(folder, "/", CheckpointName(steps[i]))));
  }
  return absl::OkStatus();
}

absl::StatusOr<int> RemoveIncompleteCheckpoints(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  if (!fs::exists(folder, error)) return 0;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (StepOfCheckpoint(name) >= 0 && !fs::exists(it->path() / kManifestName))
      names.push_back(name);
  }
  SDP_RETURN_IF_ERROR(FromError(error, absl::StrCat("list ", folder)));
  for (const std::string& name : names) {
    SDP_RETURN_IF_ERROR(RemoveCheckpoint(absl::StrCat(folder, "/", name)));
  }
  return static_cast<int>(names.size());
}

absl::StatusOr<std::vector<std::string>> SetAsideCheckpoints(const std::string& folder, Step step,
                                                             Generation generation) {
  std::vector<std::string> moved;
  std::error_code error;
  if (!fs::exists(folder, error)) return moved;
  std::vector<std::string> names;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (StepOfCheckpoint(name) > step) names.push_back(name);
  }
  SDP_RETURN_IF_ERROR(FromError(error, absl::StrCat("list ", folder)));
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    const std::string aside = absl::StrCat(name, ".before-gen-", generation.value());
    fs::rename(fs::path(folder) / name, fs::path(folder) / aside, error);
    SDP_RETURN_IF_ERROR(FromError(error, absl::StrCat("rename ", folder, "/", name)));
    moved.push_back(aside);
  }
  if (!moved.empty()) SDP_RETURN_IF_ERROR(SyncFolder(folder));
  return moved;
}

}  // namespace sdp

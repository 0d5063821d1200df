#include "common/checkpoint/checkpoint_reader.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/hash.h"
#include "common/base/status.h"
#include "common/data/small_file.h"

namespace sdp {
namespace {

namespace fs = std::filesystem;

// Far above any manifest: 300 bytes a fragment, and a model of 10^12 parameters has 10^6 of them.
constexpr size_t kLargestManifest = size_t{1} << 30;

absl::StatusOr<std::string> ReadManifestText(const std::string& path) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) {
    return absl::NotFoundError(absl::StrCat(path, " is missing: the checkpoint is not complete"));
  }
  return ReadSmallFile(path, kLargestManifest);
}

}  // namespace

absl::StatusOr<std::vector<Step>> ListCheckpoints(const std::string& folder) {
  std::vector<Step> steps;
  std::error_code error;
  if (!fs::exists(folder, error)) return steps;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const Step step = StepOfCheckpoint(it->path().filename().string());
    if (step >= 0 && fs::is_regular_file(it->path() / kManifestName)) steps.push_back(step);
  }
  if (error) {
    return absl::UnavailableError(
        absl::StrCat("list checkpoints in ", folder, ": ", error.message()));
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

absl::StatusOr<std::unique_ptr<CheckpointReader>> CheckpointReader::Open(const std::string& path) {
  const std::string manifest_path = absl::StrCat(path, "/", kManifestName);
  SDP_ASSIGN_OR_RETURN(const std::string text, ReadManifestText(manifest_path));
  std::unique_ptr<CheckpointReader> reader(new CheckpointReader(path));
  absl::StatusOr<CheckpointManifest> manifest = ParseManifest(text);
  if (!manifest.ok()) return Context(manifest.status(), manifest_path);
  reader->manifest_ = *std::move(manifest);
  for (const CheckpointManifest::File& file : reader->manifest_.files) {
    SDP_RETURN_IF_ERROR(Context(reader->OpenFile(file), absl::StrCat("checkpoint ", path)));
  }
  return reader;
}

absl::Status CheckpointReader::OpenFile(const CheckpointManifest::File& file) {
  const std::string path = absl::StrCat(path_, "/", file.name);
  std::error_code error;
  const auto bytes = static_cast<int64_t>(fs::file_size(path, error));
  if (error) return absl::DataLossError(absl::StrCat(file.name, ": ", error.message()));
  if (bytes != file.bytes) {
    return absl::DataLossError(
        absl::StrCat(file.name, " has ", bytes, " bytes, it was written with ", file.bytes));
  }
  absl::StatusOr<std::unique_ptr<SafetensorsReader>> tensors = SafetensorsReader::Open(path);
  if (!tensors.ok()) return absl::DataLossError(tensors.status().message());
  for (const CheckpointManifest::Entry& entry : file.fragments) {
    const auto check = [&](const std::string& name) -> absl::Status {
      const SafetensorsReader::Tensor* const tensor = (*tensors)->Find(name);
      if (tensor != nullptr && tensor->dtype == "F32" && tensor->elements == entry.size) {
        return absl::OkStatus();
      }
      return absl::DataLossError(
          absl::StrCat(file.name, ": tensor ", name, " of ", entry.size, " F32 is not in it"));
    };
    SDP_RETURN_IF_ERROR(check(ValueTensor(entry.fragment)));
    for (size_t m = 0; m < entry.moments.size(); ++m) {
      SDP_RETURN_IF_ERROR(check(MomentTensor(entry.fragment, m)));
    }
    if (!places_.emplace(entry.fragment, Place{files_.size(), &entry}).second) {
      return absl::DataLossError(
          absl::StrCat(file.name, ": fragment ", entry.fragment.value(), " is there twice"));
    }
  }
  files_.push_back(*std::move(tensors));
  return absl::OkStatus();
}

absl::Status CheckpointReader::Verify() const {
  std::vector<float> buffer;
  for (const CheckpointManifest::File& file : manifest_.files) {
    for (const CheckpointManifest::Entry& entry : file.fragments) {
      buffer.resize(static_cast<size_t>(entry.size));
      SDP_RETURN_IF_ERROR(ReadValue(entry.fragment, absl::MakeSpan(buffer)));
      for (size_t m = 0; m < entry.moments.size(); ++m) {
        SDP_RETURN_IF_ERROR(
            ReadMoment(entry.fragment, static_cast<int>(m), absl::MakeSpan(buffer)));
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<CheckpointReader::Place> CheckpointReader::Find(FragmentId fragment) const {
  const auto place = places_.find(fragment);
  if (place != places_.end()) return place->second;
  return absl::NotFoundError(
      absl::StrCat("checkpoint ", path_, " has no fragment ", fragment.value()));
}

absl::Status CheckpointReader::Read(const Place& place, const std::string& tensor,
                                    uint64_t checksum, absl::Span<float> out) const {
  const SafetensorsReader& file = *files_[place.file];
  SDP_RETURN_IF_ERROR(file.Read(tensor, 0, out));
  const uint64_t found =
      Hash64({reinterpret_cast<const char*>(out.data()), out.size() * sizeof(float)});
  if (found == checksum) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(file.path(), ": tensor ", tensor, " has checksum ",
                                          HashText(found), ", it was written with ",
                                          HashText(checksum)));
}

absl::Status CheckpointReader::ReadValue(FragmentId fragment, absl::Span<float> out) const {
  SDP_ASSIGN_OR_RETURN(const Place place, Find(fragment));
  return Read(place, ValueTensor(fragment), place.entry->value, out);
}

absl::Status CheckpointReader::ReadMoment(FragmentId fragment, int moment,
                                          absl::Span<float> out) const {
  SDP_ASSIGN_OR_RETURN(const Place place, Find(fragment));
  const auto index = static_cast<size_t>(moment);
  if (moment < 0 || index >= place.entry->moments.size()) {
    return absl::NotFoundError(absl::StrCat("checkpoint ", path_, ": fragment ", fragment.value(),
                                            " has ", place.entry->moments.size(),
                                            " moments, number ", moment, " was asked for"));
  }
  return Read(place, MomentTensor(fragment, index), place.entry->moments[index], out);
}

int CheckpointReader::moments(FragmentId fragment) const {
  const auto place = places_.find(fragment);
  return place == places_.end() ? 0 : static_cast<int>(place->second.entry->moments.size());
}

int64_t CheckpointReader::updates(FragmentId fragment) const {
  const auto place = places_.find(fragment);
  return place == places_.end() ? 0 : place->second.entry->updates;
}

}  // namespace sdp

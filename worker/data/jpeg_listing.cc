#include "worker/data/jpeg_listing.h"

#include <algorithm>
#include <cassert>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/hash.h"
#include "common/base/status.h"
#include "common/data/small_file.h"

namespace sdp {
namespace {

namespace fs = std::filesystem;

struct Entry {
  std::string name;
  bool is_folder;
  auto operator<=>(const Entry&) const = default;
};

absl::Status SystemError(const std::string& path, const std::error_code& error) {
  return absl::ErrnoToStatus(error.value(), path);
}

// What is in a folder, by name, without hidden names.
absl::StatusOr<std::vector<Entry>> EntriesOf(const std::string& folder) {
  std::vector<Entry> entries;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    std::string name = it->path().filename().string();
    if (absl::StartsWith(name, ".")) continue;
    std::error_code broken;
    const bool is_folder = it->is_directory(broken);  // Where a link leads to.
    if (broken) return SystemError(it->path().string(), broken);
    entries.push_back({std::move(name), is_folder});
  }
  if (error) return SystemError(folder, error);
  std::sort(entries.begin(), entries.end());
  return entries;
}

bool IsJpegName(absl::string_view name) {
  const std::string lower = absl::AsciiStrToLower(name);
  return absl::EndsWith(lower, ".jpg") || absl::EndsWith(lower, ".jpeg");
}

// JPEG's first marker, and the first byte of the next.
bool BeginsAsJpeg(absl::string_view bytes) { return absl::StartsWith(bytes, "\xff\xd8\xff"); }

uint64_t Joined(absl::string_view bytes, uint64_t hash) { return Hash64(bytes, hash); }
uint64_t Joined(int64_t number, uint64_t hash) {
  return Hash64({reinterpret_cast<const char*>(&number), sizeof(number)}, hash);
}

}  // namespace

absl::StatusOr<JpegListing> JpegListing::Read(const std::string& folder) {
  JpegListing listing;
  listing.folder_ = folder;
  SDP_ASSIGN_OR_RETURN(const std::vector<Entry> entries, EntriesOf(folder));
  for (const Entry& entry : entries) {
    if (entry.is_folder) SDP_RETURN_IF_ERROR(listing.AddClass(entry.name));
  }
  if (listing.classes_.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(folder, ": has no sub-folder; there must be one for each class of images"));
  }
  return listing;
}

absl::Status JpegListing::AddClass(const std::string& name) {
  const std::string folder = absl::StrCat(folder_, "/", name);
  SDP_ASSIGN_OR_RETURN(const std::vector<Entry> entries, EntriesOf(folder));
  if (entries.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(folder, ": is empty; the sub-folder of a class must have JPEG files"));
  }
  classes_.push_back(name);
  first_.push_back(samples());
  for (const Entry& entry : entries) {
    if (entry.is_folder || !IsJpegName(entry.name)) {
      return absl::InvalidArgumentError(
          absl::StrCat(folder, "/", entry.name, entry.is_folder ? ": is a folder" : "",
                       ": the sub-folder of a class may have files named .jpg and .jpeg alone"));
    }
    names_ += entry.name;
    begins_.push_back(static_cast<int64_t>(names_.size()));
  }
  return absl::OkStatus();
}

int64_t JpegListing::ClassOf(int64_t sample) const {
  assert(sample >= 0 && sample < samples());
  return std::upper_bound(first_.begin(), first_.end(), sample) - first_.begin() - 1;
}

std::string JpegListing::PathOf(int64_t sample) const {
  const auto index = static_cast<size_t>(sample);
  const auto begin = static_cast<size_t>(begins_[index]);
  const auto size = static_cast<size_t>(begins_[index + 1]) - begin;
  return absl::StrCat(folder_, "/", classes_[static_cast<size_t>(ClassOf(sample))], "/",
                      absl::string_view(names_).substr(begin, size));
}

absl::StatusOr<uint64_t> JpegListing::Checksum(int64_t whole_bytes) const {
  uint64_t hash = Joined(names_, 0);
  for (size_t i = 0; i < classes_.size(); ++i) hash = Joined(classes_[i], Joined(first_[i], hash));
  int64_t bytes = 0;
  for (int64_t sample = 0; sample < samples(); ++sample) {
    std::error_code error;
    const auto size = static_cast<int64_t>(fs::file_size(PathOf(sample), error));
    if (error) return SystemError(PathOf(sample), error);
    hash = Joined(begins_[static_cast<size_t>(sample)], Joined(size, hash));
    bytes += size;
  }
  constexpr int64_t kPieces = 64;
  const int64_t pieces = bytes <= whole_bytes ? samples() : std::min(samples(), kPieces);
  for (int64_t i = 0; i < pieces; ++i) {
    const std::string path = PathOf(pieces == 1 ? 0 : (samples() - 1) * i / (pieces - 1));
    SDP_ASSIGN_OR_RETURN(const std::string content, ReadSmallFile(path, kLargestJpegFile));
    if (!BeginsAsJpeg(content)) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": is no JPEG file"));
    }
    hash = Joined(content, hash);
  }
  return hash;
}

}  // namespace sdp

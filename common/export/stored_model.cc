#include "common/export/stored_model.h"

#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "common/export/exported_model.h"
#include "common/export/run_model.h"

namespace sdp {

absl::StatusOr<StoredModel> OpenStoredModel(const std::string& path) {
  std::error_code ignored;
  const std::filesystem::path folder = path;
  if (!std::filesystem::is_directory(folder, ignored)) {
    return absl::NotFoundError(absl::StrCat("no folder ", path));
  }
  if (std::filesystem::exists(folder / "config.json", ignored)) return OpenExported(path);
  if (std::filesystem::exists(folder / "config.toml", ignored)) return OpenRun(path, std::nullopt);
  return absl::NotFoundError(absl::StrCat(
      path,
      " is no model: it has neither an exported model's config.json nor a run's config.toml"));
}

}  // namespace sdp

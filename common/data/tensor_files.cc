#include "common/data/tensor_files.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace sdp {

absl::StatusOr<std::unique_ptr<const TensorFiles>> TensorFiles::Open(
    std::string name, absl::Span<const std::string> paths) {
  std::unique_ptr<TensorFiles> files(new TensorFiles(std::move(name)));
  for (const std::string& path : paths) {
    SDP_ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsReader> file, SafetensorsReader::Open(path));
    for (const SafetensorsReader::Tensor& tensor : file->tensors()) {
      if (!files->of_.emplace(tensor.name, file.get()).second) {
        return absl::InvalidArgumentError(
            absl::StrCat(path, ": tensor ", absl::Utf8SafeCEscape(tensor.name.substr(0, 200)),
                         " is in another part too"));
      }
    }
    files->files_.push_back(std::move(file));
  }
  return files;
}

const SafetensorsReader* TensorFiles::Find(absl::string_view tensor) const {
  const auto found = of_.find(tensor);
  return found == of_.end() ? nullptr : found->second;
}

}  // namespace sdp

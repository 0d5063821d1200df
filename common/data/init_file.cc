#include "common/data/init_file.h"

#include <cassert>
#include <cmath>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"

namespace sdp {
namespace {

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

// The file that has this tensor in its shape and in a readable type.
absl::StatusOr<const SafetensorsReader*> FileOf(const TensorFiles& files,
                                                const TensorSpec& wanted) {
  const SafetensorsReader* file = files.Find(wanted.name);
  if (file == nullptr) {
    return absl::NotFoundError(absl::StrCat(files.name(), ": tensor ", wanted.name, " ",
                                            ShapeText(wanted.shape), " of the model is missing"));
  }
  const SafetensorsReader::Tensor& found = *file->Find(wanted.name);
  if (found.shape != wanted.shape) {
    return absl::InvalidArgumentError(absl::StrCat(file->path(), ": tensor ", wanted.name,
                                                   " has shape ", ShapeText(found.shape),
                                                   ", the model's is ", ShapeText(wanted.shape)));
  }
  if (found.dtype != "F32" && found.dtype != "F16" && found.dtype != "BF16") {
    return absl::InvalidArgumentError(absl::StrCat(file->path(), ": tensor ", wanted.name,
                                                   " has dtype ", found.dtype,
                                                   "; readable are F32, F16 and BF16"));
  }
  return file;
}

}  // namespace

absl::Status CheckAgainst(const TensorFiles& files, const Catalog& catalog) {
  absl::flat_hash_set<std::string> known;
  for (const TensorSpec& tensor : catalog.tensors) {
    SDP_RETURN_IF_ERROR(FileOf(files, tensor).status());
    known.insert(tensor.name);
  }
  // Weights of a larger model would otherwise pass as a smaller one's.
  for (const auto& file : files.files()) {
    for (const SafetensorsReader::Tensor& tensor : file->tensors()) {
      if (known.contains(tensor.name)) continue;
      return absl::InvalidArgumentError(
          absl::StrCat(file->path(), ": tensor ", absl::Utf8SafeCEscape(tensor.name.substr(0, 200)),
                       " ", ShapeText(tensor.shape), " is none of the model's"));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadFragment(const TensorFiles& files, const Catalog& catalog, const Layout& layout,
                          FragmentId fragment, absl::Span<float> out) {
  assert(static_cast<int64_t>(out.size()) == layout.fragment(fragment).size);
  int known = -1;  // Pieces of one tensor follow each other.
  const SafetensorsReader* file = nullptr;
  for (const Piece& piece : layout.pieces(fragment)) {
    const TensorSpec& tensor = catalog.tensors[static_cast<size_t>(piece.tensor)];
    if (piece.tensor != known) {
      SDP_ASSIGN_OR_RETURN(file, FileOf(files, tensor));
    }
    known = piece.tensor;
    const absl::Span<float> part =
        out.subspan(static_cast<size_t>(piece.fragment_offset), static_cast<size_t>(piece.size));
    SDP_RETURN_IF_ERROR(file->Read(tensor.name, piece.tensor_offset, part));
    for (size_t i = 0; i < part.size(); ++i) {
      if (!std::isfinite(part[i])) {
        return absl::InvalidArgumentError(
            absl::StrCat(file->path(), ": tensor ", tensor.name, " has the value ", part[i],
                         " at element ", piece.tensor_offset + static_cast<int64_t>(i)));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace sdp

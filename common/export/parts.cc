#include "common/export/parts.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "common/data/safetensors.h"
#include "common/export/exported_model.h"

namespace sdp {
namespace {

int64_t DataBytes(const SafetensorsWriter::Tensor& tensor) {
  int64_t bytes = SafetensorsTypeBytes(tensor.dtype);
  for (const int64_t size : tensor.shape) bytes *= size;
  return bytes;
}

// No less than a tensor's entry in a header takes: name, type, two offsets, sizes, punctuation.
int64_t EntryBytes(const SafetensorsWriter::Tensor& tensor) {
  return static_cast<int64_t>(128 + tensor.name.size() + 21 * tensor.shape.size());
}

}  // namespace

std::vector<size_t> PlanParts(absl::Span<const SafetensorsWriter::Tensor> tensors,
                              const SafetensorsWriter::Metadata& metadata, int64_t part_bytes) {
  int64_t empty = 64;  // length, padding, braces
  for (const auto& [key, value] : metadata) {
    empty += static_cast<int64_t>(8 + key.size() + value.size());
  }
  std::vector<size_t> parts;
  int64_t bytes = 0;
  for (const SafetensorsWriter::Tensor& tensor : tensors) {
    const int64_t more = DataBytes(tensor) + EntryBytes(tensor);
    if (parts.empty() || bytes + more > part_bytes) {
      parts.push_back(0);
      bytes = empty;
    }
    ++parts.back();
    bytes += more;
  }
  return parts;
}

std::string PartName(size_t index, size_t parts) {
  if (parts == 1) return kWeightsName;
  return absl::StrFormat("model-%05d-of-%05d.safetensors", index + 1, parts);
}

std::string IndexJson(absl::Span<const SafetensorsWriter::Tensor> tensors,
                      absl::Span<const size_t> parts) {
  int64_t total = 0;
  auto map = nlohmann::ordered_json::object();
  size_t next = 0;
  for (size_t part = 0; part < parts.size(); ++part) {
    for (const size_t end = next + parts[part]; next < end; ++next) {
      map[tensors[next].name] = PartName(part, parts.size());
      total += DataBytes(tensors[next]);
    }
  }
  const nlohmann::ordered_json json = {{"metadata", {{"total_size", total}}}, {"weight_map", map}};
  return json.dump(2) + "\n";
}

}  // namespace sdp

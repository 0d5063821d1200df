#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "common/data/safetensors_writer.h"

namespace sdp {

// Shares tensors out to files of at most `part_bytes`, header included, in order; a tensor that is
// larger has a file of its own. Returns each file's number of tensors, at least one each.
// Precondition: known types.
std::vector<size_t> PlanParts(absl::Span<const SafetensorsWriter::Tensor> tensors,
                              const SafetensorsWriter::Metadata& metadata, int64_t part_bytes);

// "model.safetensors", or "model-00002-of-00003.safetensors" of the part at `index` 1.
std::string PartName(size_t index, size_t parts);

// model.safetensors.index.json: which tensor is where.
std::string IndexJson(absl::Span<const SafetensorsWriter::Tensor> tensors,
                      absl::Span<const size_t> parts);

}  // namespace sdp

// Safetensors files: whatever Open takes must be readable to its last element, and nothing else.
#include <cstring>
#include <vector>

#include "common/data/safetensors.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const sdp::MemoryFile file(sdp::Text(data, size));
  const auto reader = sdp::SafetensorsReader::Open(file.path());
  if (!reader.ok()) return 0;
  for (const auto& tensor : (*reader)->tensors()) {
    SDP_FUZZ_CHECK(tensor.elements >= 0 && tensor.offset_bytes >= 8);
    SDP_FUZZ_CHECK((*reader)->Find(tensor.name) != nullptr);
    // No type is smaller than a byte, so this is bounded by the file.
    SDP_FUZZ_CHECK(tensor.elements <= static_cast<int64_t>(size));
    std::vector<float> values(static_cast<size_t>(tensor.elements));
    const absl::Status status = (*reader)->Read(tensor.name, 0, absl::MakeSpan(values));
    const bool readable = tensor.dtype == "F32" || tensor.dtype == "F16" || tensor.dtype == "BF16";
    SDP_FUZZ_CHECK(status.ok() == readable);
    std::vector<float> beyond(1);
    SDP_FUZZ_CHECK(!(*reader)->Read(tensor.name, tensor.elements, absl::MakeSpan(beyond)).ok());
  }
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
      R"("b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}})";
  std::string good(8, '\0');
  const uint64_t length = header.size();
  std::memcpy(good.data(), &length, 8);
  good += header + std::string(32, 'x');
  size = sdp::MutateOr(good, data, size, max_size, seed);
  // Most mutations change the header's length, which then says so again.
  if (seed % 4 != 0 && size > 8 + 32) {
    const uint64_t fitting = size - 8 - (seed % 3 == 0 ? 32 : 0);
    std::memcpy(data, &fitting, 8);
  }
  return size;
}

// Token shards: what OpenTokens takes must give every sample, with tokens below the vocabulary.
#include <cstring>
#include <vector>

#include "tests/fuzz/fuzz.h"
#include "worker/data/dataset.h"

namespace {

constexpr int64_t kVocab = 1000;
constexpr int64_t kSeqLen = 4;

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const sdp::MemoryFile file(sdp::Text(data, size));
  const std::string paths[] = {file.path()};
  const auto dataset = sdp::OpenTokens(paths, kSeqLen, kVocab);
  if (!dataset.ok()) return 0;
  SDP_FUZZ_CHECK((*dataset)->samples() >= 1 && (*dataset)->samples() <= static_cast<int64_t>(size));
  std::vector<int32_t> tokens(kSeqLen + 1);
  for (int64_t k = 0; k < (*dataset)->samples(); ++k) {
    (*dataset)->Read(k, absl::MakeSpan(tokens));
    for (const int32_t token : tokens)
      SDP_FUZZ_CHECK(token >= 0 && token <= (*dataset)->max_token() && token < kVocab);
  }
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  std::vector<int32_t> header(256);
  header[0] = 20240520;
  header[1] = 1;
  header[2] = 11;
  std::string good(reinterpret_cast<const char*>(header.data()), 4 * header.size());
  for (uint16_t token = 0; token < 11; ++token)
    good.append(reinterpret_cast<const char*>(&token), 2);
  size = sdp::MutateOr(good, data, size, max_size, seed);
  if (seed % 4 != 0 && size > 1024) {  // the number of tokens follows the file's length
    const auto count = static_cast<int32_t>((size - 1024) / 2);
    std::memcpy(data + 8, &count, 4);
  }
  return size;
}

// Checkpoint manifests: any text is a manifest or an error. A manifest written again reads the
// same.
#include "common/checkpoint/manifest.h"
#include "tests/fuzz/fuzz.h"

namespace {

std::string Good() {
  sdp::CheckpointManifest manifest;
  manifest.step = 5;
  manifest.generation = sdp::Generation(1);
  manifest.cursor = sdp::SampleCursor(40, {{8, 4}, {20, 1}});
  manifest.config = "[model]\npreset = \"llama-tiny\"\n";
  manifest.config_hash = "00000000000000aa";
  manifest.coverage = {1, 0.5};
  manifest.files.push_back({"shard-0-of-1.gen-1.safetensors", 100, {}});
  sdp::CheckpointManifest::Entry entry;
  entry.size = 3;
  entry.updates = 5;
  entry.value = 7;
  entry.moments = {8, 9};
  manifest.files[0].fragments = {entry};
  return sdp::ManifestJson(manifest);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto manifest = sdp::ParseManifest(sdp::Text(data, size));
  if (!manifest.ok()) {
    SDP_FUZZ_CHECK(absl::IsInvalidArgument(manifest.status()));
    return 0;
  }
  const auto again = sdp::ParseManifest(sdp::ManifestJson(*manifest));
  SDP_FUZZ_CHECK(again.ok() && *again == *manifest);
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  static const std::string good = Good();
  return sdp::MutateOr(good, data, size, max_size, seed);
}

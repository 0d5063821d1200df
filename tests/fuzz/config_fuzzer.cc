// Configurations: any text, and any --set, is a configuration or an error that names what is wrong.
// One that is printed loads as the same.
#include <google/protobuf/util/message_differencer.h>

#include <string>
#include <vector>

#include "common/config/config.h"
#include "tests/fuzz/fuzz.h"

namespace {

// The file, and behind the first NUL one --set.
struct Input {
  absl::string_view file;
  std::vector<std::string> sets;
};

Input InputOf(absl::string_view bytes) {
  const size_t end = bytes.find('\0');
  if (end == absl::string_view::npos) return {bytes, {}};
  return {bytes.substr(0, end), {std::string(bytes.substr(end + 1))}};
}

constexpr char kGood[] = R"([model]
preset = "llama-tiny"
[sdp]
coverage = 0.5
granularity = "neuron"
[data]
train = ["a.txt", "b.txt"]
validation = []
seq_len = 64
[train]
steps = 100
betas = [0.9, 0.95]
[checkpoint]
buffer = "1.5 GiB"
[cluster]
workers = 8
shards = 2
[run]
dir = "runs/a"
)";

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Input input = InputOf(sdp::Text(data, size));
  const auto loaded = sdp::LoadConfigText(input.file, "run.toml", input.sets);
  if (!loaded.ok()) {
    SDP_FUZZ_CHECK(absl::IsInvalidArgument(loaded.status()));
    SDP_FUZZ_CHECK(!loaded.status().message().empty());
    return 0;
  }
  const auto again = sdp::LoadConfigText(sdp::PrintConfig(*loaded), "printed.toml", {});
  SDP_FUZZ_CHECK(again.ok());
  SDP_FUZZ_CHECK(google::protobuf::util::MessageDifferencer::Equals(again->config, loaded->config));
  SDP_FUZZ_CHECK(sdp::ConfigHash(again->config) == sdp::ConfigHash(loaded->config));
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  static const std::string good = std::string(kGood) + '\0' + "train.lr=3e-4";
  return sdp::MutateOr(good, data, size, max_size, seed);
}

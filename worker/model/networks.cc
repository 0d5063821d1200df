#include "worker/model/networks.h"

#include "worker/model/llama.h"

namespace sdp {
namespace {

// One per architecture.
Network NetworkOf(const LlamaSpec& spec, int64_t seq_len, at::Device device) {
  return LlamaNetwork(spec, seq_len, device);
}

}  // namespace

Network MakeNetwork(const ModelSpec& spec, int64_t seq_len, at::Device device) {
  return std::visit([&](const auto& one) { return NetworkOf(one, seq_len, device); }, spec);
}

}  // namespace sdp

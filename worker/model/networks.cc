#include "worker/model/networks.h"

#include "worker/model/image_mlp.h"
#include "worker/model/llama.h"
#include "worker/model/resnet.h"
#include "worker/model/swin.h"

namespace sdp {
namespace {

// One per architecture.
Network NetworkOf(const ImageMlpSpec& spec, int64_t, at::Device) { return ImageMlpNetwork(spec); }
Network NetworkOf(const ResnetSpec& spec, int64_t, at::Device) { return ResnetNetwork(spec); }
Network NetworkOf(const SwinSpec& spec, int64_t, at::Device device) {
  return SwinNetwork(spec, device);
}
Network NetworkOf(const LlamaSpec& spec, int64_t seq_len, at::Device device) {
  return LlamaNetwork(spec, seq_len, device);
}

}  // namespace

Network MakeNetwork(const ModelSpec& spec, int64_t seq_len, at::Device device) {
  return std::visit([&](const auto& one) { return NetworkOf(one, seq_len, device); }, spec);
}

}  // namespace sdp

#include "tests/worker_model/count_macs.h"

#include <string>

#include "ATen/core/Tensor.h"
#include "ATen/record_function.h"

// Compiled with NDEBUG (CMakeLists.txt), like LibTorch itself: in other builds at::RecordFunction
// has a member more than the library's.
namespace sdp {
namespace {

thread_local int64_t counted = 0;

std::unique_ptr<at::ObserverContext> Count(const at::RecordFunction& function) {
  const std::string name = function.name();
  const c10::ArrayRef<const c10::IValue> inputs = function.inputs();
  const auto product = [&](const at::Tensor& a, const at::Tensor& b) {
    counted += a.size(0) * a.size(1) * b.size(1);
  };
  if (name == "aten::mm") product(inputs[0].toTensor(), inputs[1].toTensor());
  if (name == "aten::addmm") product(inputs[1].toTensor(), inputs[2].toTensor());
  if (name == "aten::bmm") {
    const at::Tensor a = inputs[0].toTensor(), b = inputs[1].toTensor();
    counted += a.size(0) * a.size(1) * a.size(2) * b.size(2);
  }
  if (name == "aten::convolution") {
    const at::Tensor x = inputs[0].toTensor(), weight = inputs[1].toTensor();
    int64_t positions = x.size(0);  // [B, in, height, width], [out, in, kernel, kernel]
    for (size_t i = 0; i < 2; ++i) {
      const int64_t padded = x.size(static_cast<int64_t>(i) + 2) + 2 * inputs[4].toIntVector()[i];
      positions *= (padded - weight.size(2)) / inputs[3].toIntVector()[i] + 1;
    }
    counted += positions * weight.numel();
  }
  if (name == "aten::_scaled_dot_product_flash_attention_for_cpu") {
    const at::Tensor q = inputs[0].toTensor();  // [B, H, L, e]; scores, and sums of values
    counted += 2 * q.size(0) * q.size(1) * q.size(2) * q.size(2) * q.size(3) / 2;
  }
  return nullptr;
}

}  // namespace

int64_t CountMacs(const std::function<void()>& f) {
  counted = 0;
  const at::CallbackHandle handle =
      at::addThreadLocalCallback(at::RecordFunctionCallback(Count).needsInputs(true));
  f();
  at::removeCallback(handle);
  return counted;
}

}  // namespace sdp

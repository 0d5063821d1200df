#include "worker/model/mlp.h"

#include <utility>

#include "common/base/allocated.h"
#include "torch/autograd.h"
#include "worker/model/matrix.h"
#include "worker/model/row_ops.h"

namespace sdp {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Forward {
  at::Tensor y;        // [B, L, d]
  at::Tensor rstd;     // [B L]
  at::Tensor gate_up;  // [B L, 2 f]
};

Forward Compute(const at::Tensor& h, const MlpWeights& w, double eps, double factor) {
  Normed normed = RmsNorm(h, w.norm, eps);
  Forward f;
  f.rstd = std::move(normed.rstd);
  f.gate_up = Product(Rows(normed.y), w.gate_up.t());
  normed.y.reset();
  f.y = AddProduct(h, SwiGlu(f.gate_up), w.down.t(), factor);
  return f;
}

// Of `backward`: which gradients are wanted, by their place among forward's tensors.
enum Input : size_t { kH, kNorm, kGateUp, kDown };

class MlpFunction : public torch::autograd::Function<MlpFunction> {
  static constexpr size_t kArguments = 10;

 public:
  // The first four tensors have gradients: of a weight of which a part is trained that part's leaf.
  static at::Tensor forward(AutogradContext* context, const at::Tensor& h, const at::Tensor& norm,
                            const at::Tensor&, const at::Tensor&, const at::Tensor& gate_up,
                            const at::Tensor& down, const Ranges& rows, const Ranges& columns,
                            double eps, double factor) {
    Forward f = Compute(h, {norm, gate_up, down}, eps, factor);
    context->save_for_backward({h, norm, gate_up, down, f.rstd, f.gate_up});
    context->saved_data["rows"] = rows;
    context->saved_data["columns"] = columns;
    context->saved_data["eps"] = eps;
    context->saved_data["factor"] = factor;
    return f.y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &h = saved[0], &norm = saved[1], &gate_up_weight = saved[2], &down = saved[3];
    const at::Tensor &rstd = saved[4], &gate_up = saved[5];
    const double factor = context->saved_data["factor"].toDouble();

    const at::Tensor dy = gradients[0].contiguous();
    at::Tensor product =
        ScaledProduct(Rows(dy), down, factor);  // Its gradient, until the next line.
    at::Tensor dgate_up = SwiGluGradient(gate_up, product);
    at::Tensor ddown;
    if (context->needs_input_grad(kDown)) {
      const Ranges columns = context->saved_data["columns"].toIntVector();
      const at::Tensor held = Select(product, 1, columns);
      const MemoryScope gradient(MemoryKind::kGradients);
      ddown = ScaledProduct(Rows(dy).t(), held, factor);
    }
    product.reset();
    at::Tensor rows, dgate_up_weight;
    if (context->needs_input_grad(kGateUp)) {
      rows = Rows(RmsNorm(h, norm, context->saved_data["eps"].toDouble()).y);
      const at::Tensor held = Select(dgate_up, 1, context->saved_data["rows"].toIntVector());
      const MemoryScope gradient(MemoryKind::kGradients);
      dgate_up_weight = Product(held.t(), rows);
    } else {
      rows = at::empty_like(Rows(h));
    }
    ProductInto(rows, dgate_up, gate_up_weight);  // The normed input's gradient takes its place.
    dgate_up.reset();
    RmsNormGradients through = RmsNormGradient(rows, h, norm, rstd, dy);
    at::Tensor dnorm;
    if (context->needs_input_grad(kNorm)) dnorm = through.dweight.to(norm.scalar_type());
    variable_list all = {through.dx, dnorm, dgate_up_weight, ddown};
    all.resize(kArguments);  // The values and the numbers have none.
    return all;
  }
};

}  // namespace

at::Tensor MlpBranch(const at::Tensor& h, const MlpWeights& weights, double norm_eps, double factor,
                     const MlpParts& parts) {
  if (!at::GradMode::is_enabled()) return Compute(h, weights, norm_eps, factor).y;
  return MlpFunction::apply(h, weights.norm, GradientOf(weights.gate_up, parts.gate_up.leaf),
                            GradientOf(weights.down, parts.down.leaf), weights.gate_up,
                            weights.down, parts.gate_up.ranges, parts.down.ranges, norm_eps,
                            factor);
}

}  // namespace sdp

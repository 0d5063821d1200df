#include "worker/model/swin_branches.h"

#include <cmath>
#include <utility>

#include "common/base/allocated.h"
#include "torch/autograd.h"
#include "worker/model/matrix.h"

namespace sdp {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor Linear(const at::Tensor& x, const LinearWeights& w) {
  return at::addmm(w.bias, x, w.weight.t());
}

// h + factor * (x weight^T + bias).   x [B L, n].
at::Tensor AddLinear(const at::Tensor& h, const at::Tensor& x, const LinearWeights& w,
                     double factor) {
  at::Tensor y = AddProduct(h, x, w.weight.t(), factor);
  return y.add_(w.bias, factor);
}

// Of what is added to factor * rows: the columns' sums.
at::Tensor BiasGradient(const at::Tensor& dy, double factor = 1) {
  const at::Tensor sum = dy.sum(0);
  return factor == 1 ? sum : sum * factor;
}

// ---- Attention ----

struct Attended {
  at::Tensor y;    // [B, L, d]
  at::Tensor qkv;  // [B W, S, 3, H, e], queries multiplied by 1 / sqrt(e)
};

Attended Attend(const at::Tensor& h, const WindowAttentionWeights& w, const Windows& windows,
                int64_t head_dim, double factor) {
  const int64_t heads = w.proj.weight.size(1) / head_dim;
  TORCH_CHECK(w.qkv.weight.size(0) == 3 * heads * head_dim && w.table.size(1) == heads,
              "attention with weights ", w.qkv.weight.sizes(), ", ", w.proj.weight.sizes(), " and ",
              w.table.sizes(), " for heads of ", head_dim);
  Attended a;
  at::Tensor x = windows.ByWindow(LayerNorm(h, w.norm).y);
  a.qkv = Linear(Rows(x), w.qkv).view({-1, windows.tokens(), 3, heads, head_dim});
  x.reset();
  a.qkv.select(2, 0).mul_(1 / std::sqrt(static_cast<double>(head_dim)));
  at::Tensor out = AttendWithinWindows(a.qkv, windows.Added(w.table));
  out = windows.ByToken(out.view({h.size(0), h.size(1), -1}));
  a.y = AddLinear(h, Rows(out), w.proj, factor);
  return a;
}

class AttentionFunction : public torch::autograd::Function<AttentionFunction> {
  static constexpr size_t kArguments = 19;
  enum Input : size_t { kH, kNorm, kNormBias, kTable, kQkv, kQkvBias, kProj, kProjBias };

 public:
  // The first eight tensors have gradients: of a weight of which some heads are trained that part's
  // leaf.
  static at::Tensor forward(AutogradContext* context, const at::Tensor& h, const at::Tensor& norm,
                            const at::Tensor& norm_bias, const at::Tensor&, const at::Tensor&,
                            const at::Tensor&, const at::Tensor&, const at::Tensor& proj_bias,
                            const at::Tensor& table, const at::Tensor& qkv,
                            const at::Tensor& qkv_bias, const at::Tensor& proj, const Ranges& heads,
                            const Ranges& rows, const Ranges& columns, const Windows* windows,
                            int64_t head_dim, double eps, double factor) {
    Attended a = Attend(h, {{norm, norm_bias, eps}, table, {qkv, qkv_bias}, {proj, proj_bias}},
                        *windows, head_dim, factor);
    context->save_for_backward({h, norm, norm_bias, table, qkv, proj, a.qkv});
    // Owned by the network, which outlives every graph.
    context->saved_data["windows"] = reinterpret_cast<int64_t>(windows);
    context->saved_data["heads"] = heads;
    context->saved_data["rows"] = rows;
    context->saved_data["columns"] = columns;
    context->saved_data["eps"] = eps;
    context->saved_data["factor"] = factor;
    return a.y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& outer) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &h = saved[0], &qkv_weight = saved[4];
    const LayerNormWeights norm = {saved[1], saved[2], context->saved_data["eps"].toDouble()};
    const auto& windows = *reinterpret_cast<const Windows*>(context->saved_data["windows"].toInt());
    const at::Tensor dy = outer[0].contiguous();
    const auto by_token = [&](const at::Tensor& x) {
      return windows.ByToken(x.view({h.size(0), h.size(1), -1}));
    };

    variable_list all(kArguments);  // The values and the numbers have none.
    at::Tensor dx = WithinWindows(context, saved, dy, &all);  // of what the product gave
    LayerNormed normed = LayerNorm(h, norm);
    if (context->needs_input_grad(kQkv)) {
      normed.y = windows.ByWindow(normed.y);
      const at::Tensor held = Select(dx, 1, context->saved_data["rows"].toIntVector());
      const MemoryScope gradient(MemoryKind::kGradients);
      all[kQkv] = Product(held.t(), Rows(normed.y));
      all[kQkvBias] = BiasGradient(held);
    }
    normed.y.reset();
    dx = Product(dx, qkv_weight);
    dx = by_token(dx);
    const LayerNormGradients through = LayerNormGradient(dx, h, normed, norm);
    all[kH] = through.dx.add_(dy);
    all[kNorm] = through.dweight;
    all[kNormBias] = through.dbias;
    return all;
  }

 private:
  // From the branch's output to the queries, keys and values, [B L, 3 H e] window by window. Sets
  // the gradients of the weights in between.
  static at::Tensor WithinWindows(AutogradContext* context, const variable_list& saved,
                                  const at::Tensor& dy, variable_list* all) {
    const at::Tensor &table = saved[3], &proj = saved[5], &qkv = saved[6];
    const auto& windows = *reinterpret_cast<const Windows*>(context->saved_data["windows"].toInt());
    const double factor = context->saved_data["factor"].toDouble();
    const bool of_proj = context->needs_input_grad(kProj);
    WindowGradients d;
    {
      const at::Tensor dout = windows.ByWindow(
          ScaledProduct(Rows(dy), proj, factor).view({dy.size(0), dy.size(1), -1}));
      d = AttendWithinWindowsGradient(dout.view({qkv.size(0), qkv.size(1), -1}), qkv,
                                      windows.Added(table), of_proj ? WantOut::kYes : WantOut::kNo);
    }
    if (of_proj) {
      d.out = Rows(windows.ByToken(d.out.view({dy.size(0), dy.size(1), -1})));
      d.out = Select(d.out, 1, context->saved_data["columns"].toIntVector());
      const MemoryScope gradient(MemoryKind::kGradients);
      (*all)[kProj] = ScaledProduct(Rows(dy).t(), d.out, factor);
    }
    if (context->needs_input_grad(kProjBias)) (*all)[kProjBias] = BiasGradient(Rows(dy), factor);
    if (context->needs_input_grad(kTable)) {
      const Ranges heads = context->saved_data["heads"].toIntVector();
      (*all)[kTable] = windows.TableGradient(Select(d.scores, 0, heads));
    }
    return d.qkv.flatten(2).flatten(0, 1);
  }
};

// ---- MLP ----

struct MlpForward {
  at::Tensor y;       // [B, L, d]
  at::Tensor hidden;  // [B L, f], before GELU
};

MlpForward Compute(const at::Tensor& h, const GeluMlpWeights& w, double factor) {
  MlpForward f;
  f.hidden = Linear(Rows(LayerNorm(h, w.norm).y), w.fc1);
  f.y = AddLinear(h, at::gelu(f.hidden), w.fc2, factor);
  return f;
}

class MlpFunction : public torch::autograd::Function<MlpFunction> {
  static constexpr size_t kArguments = 13;
  enum Input : size_t { kH, kNorm, kNormBias, kFc1, kFc1Bias, kFc2, kFc2Bias };

 public:
  // The first seven tensors have gradients: of a weight of which some neurons are trained that
  // part's leaf. `held`: those neurons.
  static at::Tensor forward(AutogradContext* context, const at::Tensor& h, const at::Tensor& norm,
                            const at::Tensor& norm_bias, const at::Tensor&, const at::Tensor&,
                            const at::Tensor&, const at::Tensor& fc2_bias, const at::Tensor& fc1,
                            const at::Tensor& fc1_bias, const at::Tensor& fc2, const Ranges& held,
                            double eps, double factor) {
    MlpForward f = Compute(h, {{norm, norm_bias, eps}, {fc1, fc1_bias}, {fc2, fc2_bias}}, factor);
    context->save_for_backward({h, norm, norm_bias, fc1, fc2, f.hidden});
    context->saved_data["held"] = held;
    context->saved_data["eps"] = eps;
    context->saved_data["factor"] = factor;
    return f.y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& outer) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &h = saved[0], &fc1 = saved[3], &fc2 = saved[4], &hidden = saved[5];
    const LayerNormWeights norm = {saved[1], saved[2], context->saved_data["eps"].toDouble()};
    const Ranges held = context->saved_data["held"].toIntVector();
    const double factor = context->saved_data["factor"].toDouble();
    const at::Tensor dy = outer[0].contiguous();

    variable_list all(kArguments);  // The values and the numbers have none.
    if (context->needs_input_grad(kFc2Bias)) all[kFc2Bias] = BiasGradient(Rows(dy), factor);
    if (context->needs_input_grad(kFc2)) {
      const at::Tensor x = at::gelu(Select(hidden, 1, held));
      const MemoryScope gradient(MemoryKind::kGradients);
      all[kFc2] = ScaledProduct(Rows(dy).t(), x, factor);
    }
    at::Tensor dhidden = ScaledProduct(Rows(dy), fc2, factor);
    at::gelu_backward_out(dhidden, dhidden, hidden);  // in its place
    LayerNormed normed = LayerNorm(h, norm);
    if (context->needs_input_grad(kFc1)) {
      const at::Tensor dheld = Select(dhidden, 1, held);
      const MemoryScope gradient(MemoryKind::kGradients);
      all[kFc1] = Product(dheld.t(), Rows(normed.y));
      all[kFc1Bias] = BiasGradient(dheld);
    }
    at::Tensor rows = Rows(normed.y);
    ProductInto(rows, dhidden, fc1);  // Its gradient takes its place.
    dhidden.reset();
    const LayerNormGradients through = LayerNormGradient(normed.y, h, normed, norm);
    all[kH] = through.dx.add_(dy);
    all[kNorm] = through.dweight;
    all[kNormBias] = through.dbias;
    return all;
  }
};

// ---- Neither ----

class BiasFunction : public torch::autograd::Function<BiasFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& h, const at::Tensor& norm,
                            const at::Tensor& norm_bias, const at::Tensor& bias) {
    context->save_for_backward({norm, norm_bias, bias});
    return h + bias;
  }

  static variable_list backward(AutogradContext* context, const variable_list& outer) {
    const variable_list saved = context->get_saved_variables();
    const auto zeros = [](const at::Tensor& weight) {
      return weight.requires_grad() ? at::zeros(weight.sizes(), weight.options()) : at::Tensor();
    };
    return {outer[0], zeros(saved[0]), zeros(saved[1]), BiasGradient(Rows(outer[0].contiguous()))};
  }
};

}  // namespace

at::Tensor WindowAttentionBranch(const at::Tensor& h, const WindowAttentionWeights& w,
                                 const Windows& windows, int64_t head_dim, double factor,
                                 const WindowAttentionParts& parts) {
  if (!at::GradMode::is_enabled()) return Attend(h, w, windows, head_dim, factor).y;
  return AttentionFunction::apply(
      h, w.norm.weight, w.norm.bias, GradientOf(w.table, parts.table.leaf),
      GradientOf(w.qkv.weight, parts.qkv.leaf), GradientOf(w.qkv.bias, parts.qkv_bias.leaf),
      GradientOf(w.proj.weight, parts.proj.leaf), w.proj.bias, w.table, w.qkv.weight, w.qkv.bias,
      w.proj.weight, parts.table.ranges, parts.qkv.ranges, parts.proj.ranges, &windows, head_dim,
      w.norm.eps, factor);
}

at::Tensor GeluMlpBranch(const at::Tensor& h, const GeluMlpWeights& w, double factor,
                         const GeluMlpParts& parts) {
  if (!at::GradMode::is_enabled()) return Compute(h, w, factor).y;
  return MlpFunction::apply(h, w.norm.weight, w.norm.bias, GradientOf(w.fc1.weight, parts.fc1.leaf),
                            GradientOf(w.fc1.bias, parts.fc1_bias.leaf),
                            GradientOf(w.fc2.weight, parts.fc2.leaf), w.fc2.bias, w.fc1.weight,
                            w.fc1.bias, w.fc2.weight, parts.fc1.ranges, w.norm.eps, factor);
}

at::Tensor BiasAlone(const at::Tensor& h, const LayerNormWeights& norm, const at::Tensor& bias) {
  if (!at::GradMode::is_enabled()) return h + bias;
  return BiasFunction::apply(h, norm.weight, norm.bias, bias);
}

}  // namespace sdp

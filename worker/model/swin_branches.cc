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

at::Tensor BiasGradient(const at::Tensor& dy, const at::Tensor& bias, double factor = 1) {
  if (!bias.requires_grad()) return at::Tensor();
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
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& h, const at::Tensor& norm,
                            const at::Tensor& norm_bias, const at::Tensor& table,
                            const at::Tensor& qkv, const at::Tensor& qkv_bias,
                            const at::Tensor& proj, const at::Tensor& proj_bias,
                            const Windows* windows, int64_t head_dim, double eps, double factor) {
    Attended a = Attend(h, {{norm, norm_bias, eps}, table, {qkv, qkv_bias}, {proj, proj_bias}},
                        *windows, head_dim, factor);
    context->save_for_backward({h, norm, norm_bias, table, qkv, qkv_bias, proj, proj_bias, a.qkv});
    // Owned by the network, which outlives every graph.
    context->saved_data["windows"] = reinterpret_cast<int64_t>(windows);
    context->saved_data["eps"] = eps;
    context->saved_data["factor"] = factor;
    return a.y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& outer) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& h = saved[0];
    const WindowAttentionWeights w = {{saved[1], saved[2], context->saved_data["eps"].toDouble()},
                                      saved[3],
                                      {saved[4], saved[5]},
                                      {saved[6], saved[7]}};
    const at::Tensor& qkv = saved[8];
    const auto& windows = *reinterpret_cast<const Windows*>(context->saved_data["windows"].toInt());
    const double factor = context->saved_data["factor"].toDouble();
    const at::Tensor dy = outer[0].contiguous();
    const auto by_token = [&](const at::Tensor& x) {
      return windows.ByToken(x.view({h.size(0), h.size(1), -1}));
    };

    WindowGradients d;
    {
      const at::Tensor dout = windows.ByWindow(
          ScaledProduct(Rows(dy), w.proj.weight, factor).view({h.size(0), h.size(1), -1}));
      d = AttendWithinWindowsGradient(dout.view({qkv.size(0), qkv.size(1), -1}), qkv,
                                      windows.Added(w.table),
                                      w.proj.weight.requires_grad() ? WantOut::kYes : WantOut::kNo);
    }
    at::Tensor dproj, dtable, dqkv;
    if (d.out.defined()) {
      d.out = by_token(d.out);
      const MemoryScope gradient(MemoryKind::kGradients);
      dproj = ScaledProduct(Rows(dy).t(), Rows(d.out), factor);
      d.out.reset();
    }
    if (w.table.requires_grad()) dtable = windows.TableGradient(d.scores);
    LayerNormed normed = LayerNorm(h, w.norm);
    at::Tensor dx = d.qkv.flatten(2).flatten(0, 1);  // of what the product gave
    d.qkv.reset();
    if (w.qkv.weight.requires_grad()) {
      normed.y = windows.ByWindow(normed.y);
      const MemoryScope gradient(MemoryKind::kGradients);
      dqkv = Product(dx.t(), Rows(normed.y));
    }
    normed.y.reset();
    const at::Tensor dqkv_bias = BiasGradient(dx, w.qkv.bias);
    dx = Product(dx, w.qkv.weight);
    dx = by_token(dx);
    const LayerNormGradients through = LayerNormGradient(dx, h, normed, w.norm);
    return {through.dx.add_(dy),
            through.dweight,
            through.dbias,
            dtable,
            dqkv,
            dqkv_bias,
            dproj,
            BiasGradient(Rows(dy), w.proj.bias, factor),
            at::Tensor(),
            at::Tensor(),
            at::Tensor(),
            at::Tensor()};
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
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& h, const at::Tensor& norm,
                            const at::Tensor& norm_bias, const at::Tensor& fc1,
                            const at::Tensor& fc1_bias, const at::Tensor& fc2,
                            const at::Tensor& fc2_bias, double eps, double factor) {
    MlpForward f = Compute(h, {{norm, norm_bias, eps}, {fc1, fc1_bias}, {fc2, fc2_bias}}, factor);
    context->save_for_backward({h, norm, norm_bias, fc1, fc1_bias, fc2, fc2_bias, f.hidden});
    context->saved_data["eps"] = eps;
    context->saved_data["factor"] = factor;
    return f.y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& outer) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& h = saved[0];
    const GeluMlpWeights w = {{saved[1], saved[2], context->saved_data["eps"].toDouble()},
                              {saved[3], saved[4]},
                              {saved[5], saved[6]}};
    const at::Tensor& hidden = saved[7];
    const double factor = context->saved_data["factor"].toDouble();
    const at::Tensor dy = outer[0].contiguous();

    at::Tensor dfc2, dfc1;
    if (w.fc2.weight.requires_grad()) {
      const at::Tensor x = at::gelu(hidden);
      const MemoryScope gradient(MemoryKind::kGradients);
      dfc2 = ScaledProduct(Rows(dy).t(), x, factor);
    }
    at::Tensor dhidden = ScaledProduct(Rows(dy), w.fc2.weight, factor);
    at::gelu_backward_out(dhidden, dhidden, hidden);  // in its place
    LayerNormed normed = LayerNorm(h, w.norm);
    if (w.fc1.weight.requires_grad()) {
      const MemoryScope gradient(MemoryKind::kGradients);
      dfc1 = Product(dhidden.t(), Rows(normed.y));
    }
    const at::Tensor dfc1_bias = BiasGradient(dhidden, w.fc1.bias);
    at::Tensor rows = Rows(normed.y);
    ProductInto(rows, dhidden, w.fc1.weight);  // Its gradient takes its place.
    dhidden.reset();
    const LayerNormGradients through = LayerNormGradient(normed.y, h, normed, w.norm);
    return {through.dx.add_(dy),
            through.dweight,
            through.dbias,
            dfc1,
            dfc1_bias,
            dfc2,
            BiasGradient(Rows(dy), w.fc2.bias, factor),
            at::Tensor(),
            at::Tensor()};
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
    return {outer[0], zeros(saved[0]), zeros(saved[1]),
            BiasGradient(Rows(outer[0].contiguous()), saved[2])};
  }
};

}  // namespace

at::Tensor WindowAttentionBranch(const at::Tensor& h, const WindowAttentionWeights& w,
                                 const Windows& windows, int64_t head_dim, double factor) {
  if (!at::GradMode::is_enabled()) return Attend(h, w, windows, head_dim, factor).y;
  return AttentionFunction::apply(h, w.norm.weight, w.norm.bias, w.table, w.qkv.weight, w.qkv.bias,
                                  w.proj.weight, w.proj.bias, &windows, head_dim, w.norm.eps,
                                  factor);
}

at::Tensor GeluMlpBranch(const at::Tensor& h, const GeluMlpWeights& w, double factor) {
  if (!at::GradMode::is_enabled()) return Compute(h, w, factor).y;
  return MlpFunction::apply(h, w.norm.weight, w.norm.bias, w.fc1.weight, w.fc1.bias, w.fc2.weight,
                            w.fc2.bias, w.norm.eps, factor);
}

at::Tensor BiasAlone(const at::Tensor& h, const LayerNormWeights& norm, const at::Tensor& bias) {
  if (!at::GradMode::is_enabled()) return h + bias;
  return BiasFunction::apply(h, norm.weight, norm.bias, bias);
}

}  // namespace sdp

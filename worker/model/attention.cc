#include "worker/model/attention.h"

#include <utility>

#include "common/base/allocated.h"
#include "torch/autograd.h"
#include "worker/model/causal_attention.h"
#include "worker/model/matrix.h"

namespace sdp {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Heads {
  int64_t query, key;  // key: as many for values
  int64_t size;

  Heads(const at::Tensor& qkv, const at::Tensor& o, int64_t head_dim)
      : query(o.size(1) / head_dim), key((qkv.size(0) / head_dim - query) / 2), size(head_dim) {
    TORCH_CHECK(key > 0 && query % key == 0 && (query + 2 * key) * size == qkv.size(0),
                "attention with weights ", qkv.sizes(), " and ", o.sizes(), " for heads of ",
                head_dim);
  }
};

// Views of qkv [B, L, (H + 2 K) e] as q [B, H, L, e], k and v [B, K, L, e].
struct Views {
  at::Tensor q, k, v;

  Views(const at::Tensor& qkv, const Heads& heads) {
    const at::Tensor split =
        qkv.view({qkv.size(0), qkv.size(1), heads.query + 2 * heads.key, heads.size})
            .transpose(1, 2);
    q = split.narrow(1, 0, heads.query);
    k = split.narrow(1, heads.query, heads.key);
    v = split.narrow(1, heads.query + heads.key, heads.key);
  }
};

struct Forward {
  at::Tensor y;     // [B, L, d]
  at::Tensor rstd;  // [B L]
  at::Tensor qkv;   // [B, L, (H + 2 K) e], rotated
  Attended attended;
};

// [B, H, L, e] -> [B L, H e]; without a copy where the kernel already writes token by token.
at::Tensor ByToken(const at::Tensor& out) {
  return out.transpose(1, 2).reshape({out.size(0) * out.size(2), out.size(1) * out.size(3)});
}

Forward Compute(const at::Tensor& h, const AttentionWeights& w, const Rotary& rotary, double eps,
                double factor) {
  const Heads heads(w.qkv, w.o, rotary.head_dim());
  Normed normed = RmsNorm(h, w.norm, eps);
  Forward f;
  f.rstd = std::move(normed.rstd);
  f.qkv = Product(Rows(normed.y), w.qkv.t()).view({h.size(0), h.size(1), w.qkv.size(0)});
  normed.y.reset();
  rotary.Apply(f.qkv, heads.query + heads.key);
  const Views views(f.qkv, heads);
  f.attended = CausalAttention(AttentionKernelFor(views.q), views.q, views.k, views.v);
  f.y = AddProduct(h, ByToken(f.attended.out), w.o.t(), factor);
  return f;
}

// Of `backward`: which gradients are wanted, by their place among forward's tensors.
enum Input : size_t { kH, kNorm, kQkv, kO };

class AttentionFunction : public torch::autograd::Function<AttentionFunction> {
  static constexpr size_t kArguments = 11;

 public:
  // The first four tensors have gradients: of a weight of which a part is trained that part's leaf.
  static at::Tensor forward(AutogradContext* context, const at::Tensor& h, const at::Tensor& norm,
                            const at::Tensor&, const at::Tensor&, const at::Tensor& qkv,
                            const at::Tensor& o, const Ranges& rows, const Ranges& columns,
                            const Rotary* rotary, double eps, double factor) {
    Forward f = Compute(h, {norm, qkv, o}, *rotary, eps, factor);
    const Attended& a = f.attended;
    context->save_for_backward(
        {h, norm, qkv, o, f.rstd, f.qkv, a.out, a.log_sum_exp, a.random_seed, a.random_at});
    // Owned by the network, which outlives every graph.
    context->saved_data["rotary"] = reinterpret_cast<int64_t>(rotary);
    context->saved_data["rows"] = rows;
    context->saved_data["columns"] = columns;
    context->saved_data["eps"] = eps;
    context->saved_data["factor"] = factor;
    return f.y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &h = saved[0], &norm = saved[1], &qkv_weight = saved[2], &o_weight = saved[3];
    const at::Tensor &rstd = saved[4], &qkv = saved[5];
    const Attended attended{saved[6], saved[7], saved[8], saved[9]};
    const auto* rotary = reinterpret_cast<const Rotary*>(context->saved_data["rotary"].toInt());
    const double factor = context->saved_data["factor"].toDouble();
    const Heads heads(qkv_weight, o_weight, rotary->head_dim());

    const at::Tensor dy = gradients[0].contiguous();
    const at::Tensor dy_rows = Rows(dy);
    at::Tensor do_weight;
    if (context->needs_input_grad(kO)) {
      const Ranges columns = context->saved_data["columns"].toIntVector();
      const at::Tensor held = Select(ByToken(attended.out), 1, columns);
      const MemoryScope gradient(MemoryKind::kGradients);
      do_weight = ScaledProduct(dy_rows.t(), held, factor);
    }
    at::Tensor dout = ScaledProduct(dy_rows, o_weight, factor)
                          .view({h.size(0), h.size(1), heads.query, heads.size})
                          .transpose(1, 2);
    const Views views(qkv, heads);
    at::Tensor dqkv;
    {
      const AttentionGradients d = CausalAttentionGradient(AttentionKernelFor(views.q), dout,
                                                           views.q, views.k, views.v, attended);
      dout.reset();
      dqkv = at::cat({d.q.transpose(1, 2), d.k.transpose(1, 2), d.v.transpose(1, 2)}, 2);
    }
    rotary->ApplyInverse(dqkv, heads.query + heads.key);
    dqkv = dqkv.view({h.size(0) * h.size(1), qkv_weight.size(0)});

    at::Tensor rows, dqkv_weight;
    if (context->needs_input_grad(kQkv)) {
      rows = Rows(RmsNorm(h, norm, context->saved_data["eps"].toDouble()).y);
      const at::Tensor held = Select(dqkv, 1, context->saved_data["rows"].toIntVector());
      const MemoryScope gradient(MemoryKind::kGradients);
      dqkv_weight = Product(held.t(), rows);
    } else {
      rows = at::empty_like(Rows(h));
    }
    ProductInto(rows, dqkv, qkv_weight);  // The normed input's gradient takes its place.
    dqkv.reset();
    RmsNormGradients through = RmsNormGradient(rows, h, norm, rstd, dy);
    at::Tensor dnorm;
    if (context->needs_input_grad(kNorm)) dnorm = through.dweight.to(norm.scalar_type());
    variable_list all = {through.dx, dnorm, dqkv_weight, do_weight};
    all.resize(kArguments);  // The values and the numbers have none.
    return all;
  }
};

}  // namespace

at::Tensor AttentionBranch(const at::Tensor& h, const AttentionWeights& weights,
                           const Rotary& rotary, double norm_eps, double factor,
                           const AttentionParts& parts) {
  if (!at::GradMode::is_enabled()) return Compute(h, weights, rotary, norm_eps, factor).y;
  return AttentionFunction::apply(h, weights.norm, GradientOf(weights.qkv, parts.qkv.leaf),
                                  GradientOf(weights.o, parts.o.leaf), weights.qkv, weights.o,
                                  parts.qkv.ranges, parts.o.ranges, &rotary, norm_eps, factor);
}

}  // namespace sdp

// Question: does a training step of llama-tiny (8 x 256 tokens, one thread) cost no more than the
// same step written with plain LibTorch operations, and does coverage 1/2 cost its share of the
// multiply-accumulates? CPU seconds of the process, not wall time, so that a busy machine disturbs
// little; the cases take turns in one run.
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <functional>
#include <string>
#include <vector>

#include "ATen/Parallel.h"
#include "tests/worker_model/llama_case.h"

namespace sdp {
namespace {

constexpr int64_t kTokens = 256;
constexpr int64_t kSamples = 8;

LlamaSpec Tiny() {
  LlamaSpec spec;
  spec.dim = 128;
  spec.layers = 4;
  spec.heads = 4;
  spec.kv_heads = 2;
  spec.ffn_dim = 344;
  spec.vocab = 256;
  return spec;
}

// What one would write with torch alone: its fused norm and attention, autograd for the rest.
at::Tensor PlainLoss(const LlamaSpec& spec, const naive::Weights& w, const at::Tensor& tokens,
                     const at::Tensor& target) {
  const int64_t batch = tokens.size(0), length = tokens.size(1), e = spec.head_dim(), half = e / 2;
  const at::Tensor frequency =
      at::pow(spec.rope_theta, -at::arange(0, e, 2, at::kFloat) / static_cast<double>(e));
  const at::Tensor angle = at::outer(at::arange(length, at::kFloat), frequency).repeat({1, 2});
  const at::Tensor cosine = angle.cos(), sine = angle.sin();
  const auto rotate = [&](const at::Tensor& x) {
    return x * cosine + at::cat({-x.narrow(3, half, half), x.narrow(3, 0, half)}, 3) * sine;
  };
  at::Tensor h = at::embedding(w.at("model.embed_tokens.weight"), tokens);
  for (int64_t layer = 0; layer < spec.layers; ++layer) {
    const auto weight = [&](const char* name) {
      return w.at(absl::StrCat("model.layers.", layer, ".", name));
    };
    const auto norm = [&](const char* name) {
      return at::rms_norm(h, {spec.dim}, weight(name), spec.norm_eps);
    };
    at::Tensor x = norm("input_layernorm.weight");
    const auto heads = [&](const char* name) {
      return at::linear(x, weight(name)).view({batch, length, -1, e}).transpose(1, 2);
    };
    const at::Tensor out = at::scaled_dot_product_attention(
        rotate(heads("self_attn.q_proj.weight")), rotate(heads("self_attn.k_proj.weight")),
        heads("self_attn.v_proj.weight"), {}, 0, /*is_causal=*/true, {}, /*enable_gqa=*/true);
    h = h + at::linear(out.transpose(1, 2).reshape({batch, length, -1}),
                       weight("self_attn.o_proj.weight"));
    x = norm("post_attention_layernorm.weight");
    const at::Tensor product = at::silu(at::linear(x, weight("mlp.gate_proj.weight"))) *
                               at::linear(x, weight("mlp.up_proj.weight"));
    h = h + at::linear(product, weight("mlp.down_proj.weight"));
  }
  const at::Tensor logits =
      at::linear(at::rms_norm(h, {spec.dim}, w.at("model.norm.weight"), spec.norm_eps),
                 w.at("lm_head.weight"));
  return at::cross_entropy_loss(logits.view({-1, spec.vocab}), target.reshape({-1}));
}

double CpuSeconds() {
  timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

struct Case {
  const char* name;
  std::function<void()> step;
  std::vector<double> seconds;
  double Median() {
    std::sort(seconds.begin(), seconds.end());
    return seconds[seconds.size() / 2];
  }
};

double MacShare(const LlamaCase& c, const std::vector<HeldUnit>& held) {
  double all = 0, part = 0;
  for (const UnitSpec& unit : c.catalog.units) all += static_cast<double>(unit.macs);
  for (const HeldUnit& unit : held) part += static_cast<double>(c.catalog.unit(unit.unit).macs);
  return part / all;
}

void Main() {
  LlamaCase c(Tiny(), TransformerUnit::kSublayer, kTokens);
  const std::vector<int64_t> samples = {0, 1, 2, 3, 4, 5, 6, 7};
  const at::Tensor input = c.data.Input(samples), target = c.data.Target(samples);
  naive::Weights plain;
  for (const auto& [name, value] : c.weights) plain[name] = value.clone().requires_grad_();
  FakeExchange exchange = c.MakeExchange();
  TrainTask whole, half;
  whole.samples = half.samples = samples;
  whole.units = c.Held();
  half.units = c.Held({"layers.0.attention", "layers.1.mlp", "layers.2.attention", "layers.3.mlp"});
  TrainResult times;  // of all steps at coverage 1
  const auto train = [&](const TrainTask& task) {
    const absl::StatusOr<TrainResult> result = c.model->Train(task, exchange);
    if (!result.ok()) std::abort();
    exchange.Forget();
    if (&task != &whole) return;
    times.wait += result->wait;
    times.forward += result->forward;
    times.backward += result->backward;
  };
  std::vector<Case> cases;
  cases.push_back({"plain LibTorch",
                   [&] {
                     PlainLoss(c.spec, plain, input, target).backward();
                     for (auto& [name, value] : plain) value.mutable_grad().reset();
                   },
                   {}});
  cases.push_back({"Train, coverage 1", [&] { train(whole); }, {}});
  cases.push_back({"Train, coverage 1/2", [&] { train(half); }, {}});
  for (int round = -3; round < 40; ++round) {
    for (Case& one : cases) {
      const double start = CpuSeconds();
      one.step();
      if (round >= 0) one.seconds.push_back(CpuSeconds() - start);
    }
  }
  const double floor = cases[0].Median(), full = cases[1].Median();
  for (Case& one : cases) {
    std::printf("%-20s %7.2f ms  %6.0f tokens/s  %.3f of plain  %.3f of coverage 1\n", one.name,
                1e3 * one.Median(), kSamples * kTokens / one.Median(), one.Median() / floor,
                one.Median() / full);
  }
  const absl::Duration all = times.forward + times.backward;
  std::printf(
      "wall time at coverage 1: forward and loss %.2f (of which wait %.2f), backward %.2f\n",
      absl::FDivDuration(times.forward, all), absl::FDivDuration(times.wait, all),
      absl::FDivDuration(times.backward, all));
  std::printf("share of multiply-accumulates at coverage 1/2: %.3f\n", MacShare(c, half.units));
}

}  // namespace
}  // namespace sdp

int main() { sdp::Main(); }

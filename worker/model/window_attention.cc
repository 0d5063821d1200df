#include "worker/model/window_attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace sdp {
namespace {

constexpr int64_t kWeightsAtOnce = int64_t{1} << 20;
constexpr double kMasked = -100;  // as torchvision has it: e^-100 is nothing beside a weight

at::Tensor Indices(const std::vector<int64_t>& values) { return at::tensor(values, at::kLong); }

// Windows [begin, begin + count) of all samples': of whole ones, where `added` differs from window
// to window.
struct Chunk {
  int64_t begin, count;
};
std::vector<Chunk> ChunksOf(const at::Tensor& qkv, const at::Tensor& added) {
  const int64_t windows = qkv.size(0), of_sample = added.size(0), s = qkv.size(1);
  const int64_t weights = of_sample * qkv.size(3) * s * s;
  const int64_t step = std::max<int64_t>(kWeightsAtOnce / weights, 1) * of_sample;
  std::vector<Chunk> chunks;
  for (int64_t begin = 0; begin < windows; begin += step)
    chunks.push_back({begin, std::min(step, windows - begin)});
  return chunks;
}

// Of a chunk: its queries, keys and values, [windows H, S, e], and attention's weights.
struct Scored {
  at::Tensor q, k, v;
  at::Tensor weights;  // [windows H, S, S]

  Scored(const at::Tensor& qkv, const at::Tensor& added, const Chunk& chunk) {
    const at::Tensor by_head = qkv.narrow(0, chunk.begin, chunk.count)
                                   .permute({2, 0, 3, 1, 4})  // [3, windows, H, S, e]
                                   .contiguous()
                                   .flatten(1, 2);
    q = by_head.select(0, 0);
    k = by_head.select(0, 1);
    v = by_head.select(0, 2);
    at::Tensor scores = at::bmm(q, k.transpose(1, 2));
    const int64_t s = qkv.size(1);
    scores.view({-1, added.size(0), qkv.size(3), s, s}).add_(added);
    weights = at::softmax(scores, -1);
  }
};

// x [windows H, S, e] -> `to` [windows, S, H, e].
void PutByToken(const at::Tensor& x, at::Tensor to) {
  to.copy_(x.view({to.size(0), to.size(2), to.size(1), to.size(3)}).transpose(1, 2));
}

}  // namespace

Windows::Windows(int64_t size, int64_t window, int64_t shift, at::Device device)
    : window_(window), tokens_(window * window) {
  std::vector<int64_t> order, place(static_cast<size_t>(size * size)), region;
  // Where a token of the shifted square comes from along one side: before the last window, from its
  // place in the last window, or from the other side.
  const auto side = [&](int64_t at) { return at < size - window ? 0 : at < size - shift ? 1 : 2; };
  for (int64_t w = 0; w < size * size / tokens_; ++w) {
    for (int64_t t = 0; t < tokens_; ++t) {
      const int64_t row = w / (size / window) * window + t / window;
      const int64_t column = w % (size / window) * window + t % window;
      const int64_t token = (row + shift) % size * size + (column + shift) % size;
      place[static_cast<size_t>(token)] = static_cast<int64_t>(order.size());
      order.push_back(token);
      region.push_back(3 * side(row) + side(column));
    }
  }
  order_ = Indices(order).to(device);
  place_ = Indices(place).to(device);
  std::vector<int64_t> relative;
  for (int64_t a = 0; a < tokens_; ++a) {
    for (int64_t b = 0; b < tokens_; ++b) {
      const int64_t rows = a / window - b / window + window - 1;
      const int64_t columns = a % window - b % window + window - 1;
      relative.push_back(rows * (2 * window - 1) + columns);
    }
  }
  relative_ = Indices(relative).to(device);
  if (shift == 0) return;
  const at::Tensor regions = Indices(region).view({-1, 1, tokens_});
  const at::Tensor apart = regions.unsqueeze(3).ne(regions.unsqueeze(2));
  mask_ = apart.to(at::kFloat).mul_(kMasked).to(device);
}

at::Tensor Windows::Added(const at::Tensor& table) const {
  const at::Tensor bias =
      table.index_select(0, relative_).t().reshape({1, table.size(1), tokens_, tokens_});
  return mask_.defined() ? bias + mask_ : bias;
}

at::Tensor Windows::TableGradient(const at::Tensor& dscores) const {
  const int64_t rows = (2 * window_ - 1) * (2 * window_ - 1);
  at::Tensor dtable = at::zeros({rows, dscores.size(0)}, dscores.options());
  return dtable.index_add_(0, relative_, dscores.flatten(1).t());
}

at::Tensor AttendWithinWindows(const at::Tensor& qkv, const at::Tensor& added) {
  const int64_t windows = qkv.size(0), s = qkv.size(1), heads = qkv.size(3), e = qkv.size(4);
  const at::Tensor out = at::empty({windows, s, heads, e}, qkv.options());
  for (const Chunk& chunk : ChunksOf(qkv, added)) {
    const Scored scored(qkv, added, chunk);
    PutByToken(at::bmm(scored.weights, scored.v), out.narrow(0, chunk.begin, chunk.count));
  }
  return out.flatten(2);
}

WindowGradients AttendWithinWindowsGradient(const at::Tensor& dout, const at::Tensor& qkv,
                                            const at::Tensor& added, WantOut want) {
  const int64_t windows = qkv.size(0), s = qkv.size(1), heads = qkv.size(3), e = qkv.size(4);
  const at::Tensor by_token = dout.view({windows, s, heads, e});
  const at::Tensor dqkv = at::empty_like(qkv);
  at::Tensor out;
  if (want == WantOut::kYes) out = at::empty({windows, s, heads, e}, qkv.options());
  WindowGradients gradients;
  gradients.scores = at::zeros({heads, s, s}, qkv.options());
  for (const Chunk& chunk : ChunksOf(qkv, added)) {
    const Scored scored(qkv, added, chunk);
    const auto put = [&](int64_t which, const at::Tensor& d) {
      PutByToken(d, dqkv.narrow(0, chunk.begin, chunk.count).select(2, which));
    };
    if (out.defined())
      PutByToken(at::bmm(scored.weights, scored.v), out.narrow(0, chunk.begin, chunk.count));
    const at::Tensor d = by_token.narrow(0, chunk.begin, chunk.count)
                             .transpose(1, 2)
                             .reshape({chunk.count * heads, s, e});
    put(2, at::bmm(scored.weights.transpose(1, 2), d));
    const at::Tensor dscores = at::_softmax_backward_data(at::bmm(d, scored.v.transpose(1, 2)),
                                                          scored.weights, -1, at::kFloat);
    gradients.scores.add_(dscores.view({chunk.count, heads, s, s}).sum(0));
    put(0, at::bmm(dscores, scored.k).mul_(1 / std::sqrt(static_cast<double>(e))));
    put(1, at::bmm(dscores.transpose(1, 2), scored.q));
  }
  gradients.qkv = dqkv;
  if (out.defined()) gradients.out = out.flatten(2);
  return gradients;
}

}  // namespace sdp

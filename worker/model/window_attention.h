#pragma once

#include <cstdint>

#include "ATen/ATen.h"

// Attention within windows of a square of tokens. Legend: B samples, L tokens of a sample row by
// row, S tokens of a window, W = L / S windows, H heads of e elements. f32. None of these is
// differentiable.   Errors: c10::Error on a wrong shape.
namespace sdp {

// The windows of one resolution, cyclically shifted or not: a shift by s moves the square s tokens
// up and left, and what leaves it enters at the other side, where it must not be mixed with what
// is there. Immutable; shared by the stages.
class Windows {
 public:
  // Of size x size tokens on `device`; `window` divides size, 0 <= shift < window.
  Windows(int64_t size, int64_t window, int64_t shift, at::Device device);

  int64_t count() const { return order_.numel() / tokens_; }  // W
  int64_t tokens() const { return tokens_; }                  // S

  // [B, L, n] token by token -> window by window, and back.
  at::Tensor ByWindow(const at::Tensor& x) const { return x.index_select(1, order_); }
  at::Tensor ByToken(const at::Tensor& x) const { return x.index_select(1, place_); }

  // What is added to the scores, [W or 1, H, S, S]: a head's bias for the two tokens' relative
  // position, from the table [(2 window - 1)^2, H], and -100 where shifting put the two next to
  // each other.
  at::Tensor Added(const at::Tensor& table) const;
  // The gradient of the table, from that of the scores summed over windows, [H, S, S].
  at::Tensor TableGradient(const at::Tensor& dscores) const;

 private:
  const int64_t window_, tokens_;
  at::Tensor order_;     // [L] i64: the token at each place
  at::Tensor place_;     // [L] i64: the place of each token
  at::Tensor relative_;  // [S S] i64: rows of the table
  at::Tensor mask_;      // [W, 1, S, S]; undefined: not shifted
};

// softmax(q k^T + added) v, each window by itself. qkv [B W, S, 3, H, e] contiguous, queries
// multiplied by 1 / sqrt(e) -> [B W, S, H e]. Weights of S x S, and q, k and v by head, exist for a
// few samples at once: weights of at most 4 MiB, or of one sample.
at::Tensor AttendWithinWindows(const at::Tensor& qkv, const at::Tensor& added);

struct WindowGradients {
  at::Tensor qkv;     // [B W, S, 3, H, e], of the queries before they were multiplied
  at::Tensor scores;  // [H, S, S], summed over all windows
  at::Tensor out;     // what AttendWithinWindows returned, if that is wanted
};
// Makes the weights anew. dout [B W, S, H e].
enum class WantOut { kNo, kYes };
WindowGradients AttendWithinWindowsGradient(const at::Tensor& dout, const at::Tensor& qkv,
                                            const at::Tensor& added, WantOut want);

}  // namespace sdp

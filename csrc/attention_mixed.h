// Generalised attention of one sequence, fp32, beside attention.h: attention as a hypernetwork
// (Schug et al. 2024, arXiv 2406.05816) and what it is compared with.
//   s[h,q,k] = (q_h[q] . k_h[k]) scale + r[h, k - q + T - 1]; causal: keys after the query weigh 0
//   a = softmax over k of s | s | s / sqrt(mean over h of s^2 + epsilon), then times keep[q,k]
//   none:           o[q,h] = sum_k a[h,q,k] v[k,h]
//   linear, relu:   u[q,k] = sum_h a[h,q,k] v[k,h]; w = act(u); o[q,h] = sum_k a[h,q,k] w[q,k]
//   deep:           w = relu(sum_h a[h,q,k] W2[h] relu(u[q,k])), o likewise
// Query row i of t_q stands at position i + T - t_q. Keys lie in the lanes: k, v and their
// gradients are columns [heads * d, T padded] while a sequence passes, and MIXED_ROWS query rows
// pass at a time, so that [T, T, d_v] is never there. Nothing is saved: backward makes the weights
// and the values again, which costs less than to read them. Sums over keys go lane by lane, then
// over the lanes; all others are chains.
#pragma once

#include "attention_mixed_weights.h"
#include "attention_tile.h"
#include "lane_products.h"

namespace {

using namespace compfast;

// The generated second layer, [heads * d_v, ld].
struct MixedDeep {
  const float* weight;
  long ld;
};

// Columns [d, T padded] x factor, lanes past T zero.
inline void mixed_columns(const float* in, long in_ld, long t, long d, float factor, float* out,
                          long t_pad) {
  columns_of(in, in_ld, t, d, out, t_pad);
  for (long c = 0; c < d; c++) {
    float* column = out + c * t_pad;
    std::memset(column + t, 0, (t_pad - t) * sizeof(float));
    if (factor == 1.0f) continue;
    for (long j = 0; j < t_pad; j += W) store(column + j, load(column + j) * splat(factor));
  }
}

// x = relu(x), rows [count, n] of t_pad floats
inline void mixed_relu(float* x, long count, long n, long t_pad) {
  for (long c = 0; c < count; c++)
    for (long j = 0; j < n; j += W) store(x + c * t_pad + j, vmax(vf{}, load(x + c * t_pad + j)));
}

// d = 0 where relu gave y = 0
inline void mixed_relu_backward(const float* y, float* d, long count, long n, long t_pad) {
  for (long c = 0; c < count; c++)
    for (long j = 0; j < n; j += W) {
      float* to = d + c * t_pad + j;
      store(to, select(load(y + c * t_pad + j) <= vf{}, vf{}, load(to)));
    }
}

// Row i's second layer: room.layer = W2[h] relu(u), mixed = relu(sum_h a[h] layer[h]).
inline void mixed_deep(const MixedShape& s, long n, const float* weights, const float* hidden,
                       const MixedDeep& deep, float* mixed, const MixedRoom& room) {
  const long t_pad = room.t_pad;
  gemm(s.heads * s.d_v, n, s.d_v, deep.weight, deep.ld, 1, hidden, t_pad, room.layer, t_pad);
  lane_product(s.d_v, 1, s.heads, n, {room.layer, t_pad, s.d_v * t_pad}, {weights, 0, t_pad}, mixed,
               t_pad, 0, false);
  mixed_relu(mixed, s.d_v, n, t_pad);
}

// room.hidden = act(u) of a block's rows
inline void mixed_hidden(const MixedShape& s, const MixedBlock& block, const float* weights,
                         const MixedRoom& room) {
  const long t_pad = room.t_pad, values = s.d_v * t_pad;
  lane_product(block.rows, s.d_v, s.heads, block.seen, {weights, room.row, t_pad},
               {room.v, t_pad, values}, room.hidden, values, t_pad, false);
  if (s.path != MIXED_VALUE_LINEAR) mixed_relu(room.hidden, block.rows * s.d_v, block.seen, t_pad);
}

// scratch: mixed_room. relative [heads, relative_ld >= mixed_relative_ld(t)], keep [t_q, keep_ld
// >= t padded] of finite numbers (0 past t) and deep may be null.
inline void mixed_forward(const MixedShape& s, const float* q, long q_ld, const float* k, long k_ld,
                          const float* v, long v_ld, const float* relative, long relative_ld,
                          const float* keep, long keep_ld, const MixedDeep& deep, float* o,
                          long o_ld, float* scratch) {
  const MixedRoom room(s, scratch);
  const long t_pad = room.t_pad, values = s.d_v * t_pad;
  mixed_columns(k, k_ld, s.t, s.heads * s.d_k, s.scale, room.k, t_pad);
  mixed_columns(v, v_ld, s.t, s.heads * s.d_v, 1.0f, room.v, t_pad);
  const float* weights = keep ? room.kept : room.weights;
  for (long first = 0; first < s.t_q; first += MIXED_ROWS) {
    const MixedBlock block = mixed_block(s, first);
    const long n = block.seen;
    mixed_scores(s, block, q, q_ld, relative, relative_ld, room);
    mixed_weights(s, block, keep, keep_ld, room);
    float* out = o + first * o_ld;
    if (s.path == MIXED_NONE) {
      for (long h = 0; h < s.heads; h++)
        lane_dots(block.rows, s.d_v, n, {weights + h * t_pad, room.row, 0},
                  {room.v + h * values, t_pad, 0}, out + h * s.d_v, o_ld, 1, false);
      continue;
    }
    mixed_hidden(s, block, weights, room);
    for (long i = 0; i < block.rows; i++) {
      const float *own = weights + i * room.row, *mixed = room.hidden + i * values;
      if (s.path == MIXED_VALUE_DEEP) {
        mixed_deep(s, n, own, mixed, deep, room.mixed, room);
        mixed = room.mixed;
      }
      lane_dots(s.heads, s.d_v, n, {own, t_pad, 0}, {mixed, t_pad, 0}, out + i * o_ld, s.d_v, 1,
                false);
    }
  }
}

// Row i's way back through the second layer: d_mixed [d_v] of its output, which is in room.mixed,
// becomes that of u; d_weights and d_deep are added to.
inline void mixed_deep_backward(const MixedShape& s, long n, const float* weights,
                                const float* hidden, const MixedDeep& deep, float* d_mixed,
                                float* d_weights, float* d_deep, const MixedRoom& room) {
  const long t_pad = room.t_pad, values = s.d_v * t_pad;
  mixed_relu_backward(room.mixed, d_mixed, s.d_v, n, t_pad);
  lane_product(s.heads, 1, s.d_v, n, {room.layer, values, t_pad}, {d_mixed, 0, t_pad}, d_weights,
               t_pad, 0, true);
  for (long h = 0; h < s.heads; h++)  // the layer's output is done with: its gradient
    lane_product(s.d_v, 1, 1, n, {d_mixed, t_pad, 0}, {weights + h * t_pad, 0, 0},
                 room.layer + h * values, t_pad, 0, false);
  lane_dots(s.heads * s.d_v, s.d_v, n, {room.layer, t_pad, 0}, {hidden, t_pad, 0}, d_deep, deep.ld,
            1, true);
  gemm(s.d_v, n, s.heads * s.d_v, deep.weight, 1, deep.ld, room.layer, t_pad, d_mixed, t_pad);
}

// Of a block's rows: room.d_weights, and what they add to room.d_v and d_deep.
inline void mixed_values_backward(const MixedShape& s, const MixedBlock& block,
                                  const float* weights, const MixedDeep& deep, const float* d_o,
                                  long o_ld, float* d_deep, const MixedRoom& room) {
  const long t_pad = room.t_pad, values = s.d_v * t_pad, n = block.seen;
  if (s.path == MIXED_NONE) {
    for (long h = 0; h < s.heads; h++) {
      Epilogue epilogue;
      epilogue.add = true;
      gemm(block.rows, n, s.d_v, d_o + h * s.d_v, o_ld, 1, room.v + h * values, t_pad,
           room.d_weights + h * t_pad, room.row);
      gemm(s.d_v, n, block.rows, d_o + h * s.d_v, 1, o_ld, weights + h * t_pad, room.row,
           room.d_v + h * values, t_pad, epilogue);
    }
    return;
  }
  mixed_hidden(s, block, weights, room);
  for (long i = 0; i < block.rows; i++) {
    const float *own = weights + i * room.row, *hidden = room.hidden + i * values;
    float *d_mixed = room.d_mixed + i * values, *d_own = room.d_weights + i * room.row;
    const float *above = d_o + i * o_ld, *mixed = hidden;
    if (s.path == MIXED_VALUE_DEEP) {
      mixed_deep(s, n, own, hidden, deep, room.mixed, room);
      mixed = room.mixed;
    }
    gemm(s.d_v, n, s.heads, above, 1, s.d_v, own, t_pad, d_mixed, t_pad);
    gemm(s.heads, n, s.d_v, above, s.d_v, 1, mixed, t_pad, d_own, t_pad);
    if (s.path == MIXED_VALUE_DEEP)
      mixed_deep_backward(s, n, own, hidden, deep, d_mixed, d_own, d_deep, room);
    if (s.path != MIXED_VALUE_LINEAR) mixed_relu_backward(hidden, d_mixed, s.d_v, n, t_pad);
  }
  lane_product(block.rows, s.heads, s.d_v, n, {room.d_mixed, values, t_pad},
               {room.v, values, t_pad}, room.d_weights, room.row, t_pad, true);
  lane_product(s.heads, s.d_v, block.rows, n, {weights, t_pad, room.row},
               {room.d_mixed, t_pad, values}, room.d_v, values, t_pad, true);
}

// d_q is written; d_k and d_v are written, or added where the shape says so; d_relative [heads,
// relative_ld] and d_deep [heads * d_v, deep.ld] are added to, null where their inputs are.
inline void mixed_backward(const MixedShape& s, const float* q, long q_ld, const float* k,
                           long k_ld, const float* v, long v_ld, const float* relative,
                           long relative_ld, const float* keep, long keep_ld, const MixedDeep& deep,
                           const float* d_o, long o_ld, float* d_q, long dq_ld, float* d_k,
                           long dk_ld, float* d_v, long dv_ld, float* d_relative, float* d_deep,
                           float* scratch) {
  const MixedRoom room(s, scratch);
  const long t_pad = room.t_pad, keys = s.d_k * t_pad;
  mixed_columns(k, k_ld, s.t, s.heads * s.d_k, s.scale, room.k, t_pad);
  mixed_columns(v, v_ld, s.t, s.heads * s.d_v, 1.0f, room.v, t_pad);
  // of one sequence by itself: two short sums instead of one long
  std::memset(room.d_k, 0, (s.heads * (s.d_k + s.d_v) + 2 * s.heads) * t_pad * sizeof(float));
  const float* weights = keep ? room.kept : room.weights;
  for (long first = 0; first < s.t_q; first += MIXED_ROWS) {
    const MixedBlock block = mixed_block(s, first);
    mixed_scores(s, block, q, q_ld, relative, relative_ld, room);
    mixed_weights(s, block, keep, keep_ld, room);
    mixed_values_backward(s, block, weights, deep, d_o + first * o_ld, o_ld, d_deep, room);
    mixed_weights_backward(s, block, keep, keep_ld, d_relative != nullptr, room);
    for (long h = 0; h < s.heads; h++) {
      const float* d_s = room.d_weights + h * t_pad;
      Epilogue epilogue;
      epilogue.add = true;
      lane_dots(block.rows, s.d_k, block.seen, {d_s, room.row, 0}, {room.k + h * keys, t_pad, 0},
                d_q + first * dq_ld + h * s.d_k, dq_ld, 1, false);
      gemm(s.d_k, block.seen, block.rows, q + first * q_ld + h * s.d_k, 1, q_ld, d_s, room.row,
           room.d_k + h * keys, t_pad, epilogue);
    }
  }
  narrow_gradient(room.d_v, t_pad, s.t, s.heads * s.d_v, 1.0f, d_v, dv_ld, s.add_dv);
  narrow_gradient(room.d_k, t_pad, s.t, s.heads * s.d_k, s.scale, d_k, dk_ld, s.add_dk);
  if (!d_relative) return;
  for (long h = 0; h < s.heads; h++)
    for (long j = 0; j < 2 * s.t - 1; j++)
      d_relative[h * relative_ld + j] += room.d_relative[2 * h * t_pad + j];
}

}  // namespace

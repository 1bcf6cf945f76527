// Generalised attention of one sequence, fp32, beside attention.h: attention as a hypernetwork
// (Schug et al. 2024, arXiv 2406.05816) and what it is compared with.
//   s[h,q,k] = (q_h[q] . k_h[k]) scale + r[h, k - q + T - 1]; causal: keys after the query weigh 0
//   a = softmax over k of s | s | s / sqrt(mean over h of s^2 + epsilon), then times keep[q,k]
//   none:           o[q,h] = sum_k a[h,q,k] v[k,h]
//   linear, relu:   u[q,k] = sum_h a[h,q,k] v[k,h]; w = act(u); o[q,h] = sum_k a[h,q,k] w[q,k]
//   deep:           w = relu(sum_h a[h,q,k] W2[h] relu(u[q,k])), o likewise
// Query row i of t_q stands at position i + T - t_q. Keys lie in the lanes: k, v and their
// gradients are columns [heads * d, ld] while a sequence passes, and MIXED_ROWS query rows
// pass at a time, so that [T, T, d_v] is never there. Nothing is saved: backward makes the weights
// and the values again, which costs no more than to write and read them (softmax: a third more).
// Sums over keys go lane by lane, then over the lanes; all others are chains. Heads of whole
// vectors whose values are plain have products of another form: attention_mixed_wide.h.
#pragma once

#include "attention_mixed_weights.h"
#include "attention_mixed_wide.h"
#include "attention_tile.h"
#include "gemm.h"
#include "lane_products.h"

namespace {

using namespace compfast;

// The generated second layer, [heads * d_v, stride].
struct MixedDeep {
  const float* weight;
  long stride;
};

// x = relu(x), rows [count, n] of ld floats
inline void mixed_relu(float* x, long count, long n, long ld) {
  for (long c = 0; c < count; c++)
    for (long j = 0; j < n; j += W) store(x + c * ld + j, vmax(vf{}, load(x + c * ld + j)));
}

// d = 0 where relu gave y = 0
inline void mixed_relu_backward(const float* y, float* d, long count, long n, long ld) {
  for (long c = 0; c < count; c++)
    for (long j = 0; j < n; j += W) {
      float* to = d + c * ld + j;
      store(to, select(load(y + c * ld + j) <= vf{}, vf{}, load(to)));
    }
}

// Row i's second layer: room.layer = W2[h] relu(u), mixed = relu(sum_h a[h] layer[h]).
inline void mixed_deep(const MixedShape& s, long n, const float* weights, const float* hidden,
                       const MixedDeep& deep, float* mixed, const MixedRoom& room) {
  const long ld = room.ld;
  gemm(s.heads * s.d_v, n, s.d_v, deep.weight, deep.stride, 1, hidden, ld, room.layer, ld);
  lane_product(s.d_v, 1, {1, s.heads, n}, {room.layer, ld, s.d_v * ld, 0}, {weights, 0, ld, 0},
               nothing(), {mixed, ld, 0, 0});
  mixed_relu(mixed, s.d_v, n, ld);
}

// room.hidden = act(u) of a block's rows
inline void mixed_hidden(const MixedShape& s, const MixedBlock& block, const float* weights,
                         const MixedRoom& room) {
  const long ld = room.ld, values = s.d_v * ld;
  lane_product(block.rows, s.d_v, {1, s.heads, block.seen}, {weights, room.row, ld, 0},
               {room.v, ld, values, 0}, nothing(), {room.hidden, values, ld, 0});
  if (s.path != MIXED_VALUE_LINEAR) mixed_relu(room.hidden, block.rows * s.d_v, block.seen, ld);
}

// Rows of a block, from columns of keys and values that lie in room.k and room.v.
inline void mixed_rows(const MixedShape& s, const MixedBlock& block, const float* q, long q_ld,
                       const float* relative, long relative_ld, const float* keep, long keep_ld,
                       const MixedDeep& deep, float* o, long o_ld, const MixedRoom& room) {
  const long ld = room.ld, values = s.d_v * ld, n = block.seen;
  const float* weights = keep ? room.kept : room.weights;
  mixed_scores(s, block, q, q_ld, relative, relative_ld, room);
  mixed_weights(s, block, keep, keep_ld, room);
  float* out = o + block.first * o_ld;
  if (s.path == MIXED_NONE) {
    lane_dots(block.rows, s.d_v, {s.heads, 1, n}, {weights, room.row, 0, ld},
              {room.v, ld, 0, values}, nothing(), {out, o_ld, 1, s.d_v});
    return;
  }
  mixed_hidden(s, block, weights, room);
  if (s.path == MIXED_VALUE_DEEP)
    for (long i = 0; i < block.rows; i++) {
      const long at = i * values;
      mixed_deep(s, n, weights + i * room.row, room.hidden + at, deep, room.mixed + at, room);
    }
  const float* mixed = s.path == MIXED_VALUE_DEEP ? room.mixed : room.hidden;
  lane_dots(s.heads, s.d_v, {block.rows, 1, n}, {weights, ld, 0, room.row}, {mixed, ld, 0, values},
            nothing(), {out, s.d_v, 1, o_ld});
}

// scratch: mixed_room. relative [heads, relative_ld >= mixed_relative_ld(t)], keep [t_q, keep_ld
// >= t padded] of finite numbers (0 past t) and deep may be null.
inline void mixed_forward(const MixedShape& s, const float* q, long q_ld, const float* k, long k_ld,
                          const float* v, long v_ld, const float* relative, long relative_ld,
                          const float* keep, long keep_ld, const MixedDeep& deep, float* o,
                          long o_ld, float* scratch) {
  const MixedRoom room(s, scratch);
  if (mixed_is_wide(s.t_q, s.d_k, s.d_v, s.path)) {
    mixed_wide_forward(s, q, q_ld, k, k_ld, v, v_ld, relative, relative_ld, keep, keep_ld, o, o_ld,
                       room);
    return;
  }
  mixed_columns(k, k_ld, s.t, s.heads * s.d_k, room.k, room.ld);
  mixed_columns(v, v_ld, s.t, s.heads * s.d_v, room.v, room.ld);
  for (long first = 0; first < s.t_q; first += MIXED_ROWS)
    mixed_rows(s, mixed_block(s, first), q, q_ld, relative, relative_ld, keep, keep_ld, deep, o,
               o_ld, room);
}

// Row i's way back through the second layer: d_mixed [d_v] of its output `mixed`, room.layer as
// mixed_deep left it; d_mixed becomes that of u, d_weights and room.d_deep are added to.
inline void mixed_deep_backward(const MixedShape& s, long n, const float* weights,
                                const float* hidden, const MixedDeep& deep, const float* mixed,
                                float* d_mixed, float* d_weights, const MixedRoom& room) {
  const long ld = room.ld, values = s.d_v * ld;
  mixed_relu_backward(mixed, d_mixed, s.d_v, n, ld);
  const LaneResult to{d_weights, ld, 0, 0}, grown{room.d_deep, s.d_v, 1, 0};
  lane_product(s.heads, 1, {1, s.d_v, n}, {room.layer, values, ld, 0}, {d_mixed, 0, ld, 0},
               itself(to), to);
  // the layer's output is done with: its gradient
  lane_product(s.d_v, 1, {s.heads, 1, n}, {d_mixed, ld, 0, 0}, {weights, 0, 0, ld}, nothing(),
               {room.layer, ld, 0, values});
  lane_dots(s.heads * s.d_v, s.d_v, {1, 1, n}, {room.layer, ld, 0, 0}, {hidden, ld, 0, 0},
            itself(grown), grown);
  gemm(s.d_v, n, s.heads * s.d_v, deep.weight, 1, deep.stride, room.layer, ld, d_mixed, ld);
}

// Of a block's rows: room.d_weights, and what they add to room.d_v and room.d_deep.
inline void mixed_values_backward(const MixedShape& s, const MixedBlock& block,
                                  const float* weights, const MixedDeep& deep, const float* d_o,
                                  long o_ld, const MixedRoom& room) {
  const long ld = room.ld, values = s.d_v * ld, n = block.seen;
  if (s.path == MIXED_NONE) {
    const LaneResult to{room.d_v, ld, 0, values};
    lane_splats(block.rows, {s.heads, s.d_v, n}, {d_o, o_ld, 1, s.d_v}, {room.v, 0, ld, values},
                nothing(), {room.d_weights, room.row, 0, ld});
    lane_splats(s.d_v, {s.heads, block.rows, n}, {d_o, 1, o_ld, s.d_v}, {weights, 0, room.row, ld},
                itself(to), to);
    return;
  }
  mixed_hidden(s, block, weights, room);
  const bool is_deep = s.path == MIXED_VALUE_DEEP;
  const float* mixed = is_deep ? room.mixed : room.hidden;
  lane_splats(s.d_v, {block.rows, s.heads, n}, {d_o, 1, s.d_v, o_ld}, {weights, 0, ld, room.row},
              nothing(), {room.d_mixed, ld, 0, values});
  for (long i = 0; i < block.rows; i++) {
    const long at = i * values;
    const float *own = weights + i * room.row, *hidden = room.hidden + at;
    float *d_mixed = room.d_mixed + at, *d_own = room.d_weights + i * room.row;
    if (is_deep) mixed_deep(s, n, own, hidden, deep, room.mixed + at, room);
    lane_splats(s.heads, {1, s.d_v, n}, {d_o + i * o_ld, s.d_v, 1, 0}, {mixed + at, 0, ld, 0},
                nothing(), {d_own, ld, 0, 0});
    if (is_deep) mixed_deep_backward(s, n, own, hidden, deep, mixed + at, d_mixed, d_own, room);
    if (s.path != MIXED_VALUE_LINEAR) mixed_relu_backward(hidden, d_mixed, s.d_v, n, ld);
  }
  const LaneResult to{room.d_weights, room.row, ld, 0}, grown{room.d_v, values, ld, 0};
  lane_product(block.rows, s.heads, {1, s.d_v, n}, {room.d_mixed, values, ld, 0},
               {room.v, values, ld, 0}, itself(to), to);
  lane_product(s.heads, s.d_v, {1, block.rows, n}, {weights, ld, room.row, 0},
               {room.d_mixed, ld, values, 0}, itself(grown), grown);
}

// d_q is written; d_k and d_v are written, or added where the shape says so; d_relative [heads,
// relative_ld], unless null, and of a deep path d_deep [heads * d_v, deep.stride] are added to.
inline void mixed_backward(const MixedShape& s, const float* q, long q_ld, const float* k,
                           long k_ld, const float* v, long v_ld, const float* relative,
                           long relative_ld, const float* keep, long keep_ld, const MixedDeep& deep,
                           const float* d_o, long o_ld, float* d_q, long dq_ld, float* d_k,
                           long dk_ld, float* d_v, long dv_ld, float* d_relative, float* d_deep,
                           float* scratch) {
  const MixedRoom room(s, scratch);
  if (mixed_is_wide(s.t_q, s.d_k, s.d_v, s.path)) {
    mixed_wide_backward(s, q, q_ld, k, k_ld, v, v_ld, relative, relative_ld, keep, keep_ld, d_o,
                        o_ld, d_q, dq_ld, d_k, dk_ld, d_v, dv_ld, d_relative, room);
    return;
  }
  const long ld = room.ld, keys = s.d_k * ld;
  mixed_columns(k, k_ld, s.t, s.heads * s.d_k, room.k, ld);
  mixed_columns(v, v_ld, s.t, s.heads * s.d_v, room.v, ld);
  // a sequence's own: two short sums instead of one long
  std::memset(room.d_k, 0, (room.weights - room.d_k) * sizeof(float));
  const float* weights = keep ? room.kept : room.weights;
  for (long first = 0; first < s.t_q; first += MIXED_ROWS) {
    const MixedBlock block = mixed_block(s, first);
    mixed_scores(s, block, q, q_ld, relative, relative_ld, room);
    mixed_weights(s, block, keep, keep_ld, room);
    mixed_values_backward(s, block, weights, deep, d_o + first * o_ld, o_ld, room);
    mixed_weights_backward(s, block, keep, keep_ld, room);
    if (d_relative) mixed_relative_backward(s, block, room);
    const LaneResult to{room.d_k, ld, 0, keys};
    lane_dots(block.rows, s.d_k, {s.heads, 1, block.seen, s.scale},
              {room.d_weights, room.row, 0, ld}, {room.k, ld, 0, keys}, nothing(),
              {d_q + first * dq_ld, dq_ld, 1, s.d_k});
    lane_splats(s.d_k, {s.heads, block.rows, block.seen}, {q + first * q_ld, 1, q_ld, s.d_k},
                {room.d_weights, 0, room.row, ld}, itself(to), to);
  }
  narrow_gradient(room.d_v, ld, s.t, s.heads * s.d_v, 1.0f, d_v, dv_ld, s.add_dv);
  narrow_gradient(room.d_k, ld, s.t, s.heads * s.d_k, s.scale, d_k, dk_ld, s.add_dk);
  if (d_relative)
    mixed_add(room.d_relative, room.relative_ld, s.heads, 2 * s.t - 1, d_relative, relative_ld);
  if (s.path == MIXED_VALUE_DEEP)
    mixed_add(room.d_deep, s.d_v, s.heads * s.d_v, s.d_v, d_deep, deep.stride);
}

}  // namespace

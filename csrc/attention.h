// O = softmax(Q K^T / sqrt(d_k)) V a sequence and head, and its gradient, fp32.
// Query row i of t_q stands at position i + T - t_q; causal: it sees keys 0 .. its position.
// Gradients of k and v are written, or added where the shape says so: k and v may be one buffer.
// Keys and values are copied to [d, T padded] columns so that a row of scores is whole registers
// and no product needs a horizontal sum. Up to ATTENTION_WHOLE positions, P [t_q, T padded] is
// saved for backward; above, blocks of query rows pass by and each row saves its maximum and 1 /
// sum (Dao et al. 2022 save as much), from which backward makes P again. A lone row and heads of
// few columns have ways of their own.
#pragma once

#include "attention_lone.h"
#include "attention_narrow.h"
#include "attention_shape.h"
#include "gemm.h"

namespace {

using namespace compfast;

// A block of query rows: [first, first + rows), none of which sees a key from `seen` on.
struct QueryBlock {
  long first, rows, seen;
};

inline long block_count(const AttentionShape& s) {
  return s.t <= ATTENTION_WHOLE ? 1 : (s.t_q + ATTENTION_BLOCK - 1) / ATTENTION_BLOCK;
}

inline QueryBlock query_block(const AttentionShape& s, long index) {
  if (s.t <= ATTENTION_WHOLE) return {0, s.t_q, s.t};
  const long first = index * ATTENTION_BLOCK;
  const long rows = s.t_q - first < ATTENTION_BLOCK ? s.t_q - first : ATTENTION_BLOCK;
  return {first, rows, keys_seen(s, first + rows - 1)};
}

// scores -> P in rows of t_pad floats; columns past a row's last key become 0. `stats` [rows, 2]
// gets a row's maximum and 1 / sum; may be null.
inline void softmax_rows(const AttentionShape& s, const QueryBlock& block, const float* scores,
                         float* p, long t_pad, float* stats) {
  const float negative = -__builtin_inff();
  for (long i = 0; i < block.rows; i++) {
    const long seen = keys_seen(s, block.first + i);
    const float* row = scores + i * t_pad;
    float* out = p + i * t_pad;
    if (block.seen <= W) {  // a row is one register
      const vi mask = first_lanes(seen);
      const vf x = select(mask, load(row), splat(negative));
      const vf best = max_lanes(x);
      const vf e = select(mask, vexp((x - best) * splat(s.scale)), vf{});
      const vf inverse = splat(1.0f) / sum_lanes(e);
      store(out, e * inverse);
      if (stats) stats[2 * i] = best[0], stats[2 * i + 1] = inverse[0];
      continue;
    }
    vf top = splat(negative);
    for (long j = 0; j < block.seen; j += W)
      top = vmax(top, select(first_lanes(seen - j), load(row + j), splat(negative)));
    const vf best = max_lanes(top);
    vf sum = vf{};
    for (long j = 0; j < block.seen; j += W) {
      const vf x = vexp((load(row + j) - best) * splat(s.scale));
      const vf e = select(first_lanes(seen - j), x, vf{});
      sum += e;
      store(out + j, e);
    }
    const vf inverse = splat(1.0f) / sum_lanes(sum);
    for (long j = 0; j < block.seen; j += W) store(out + j, load(out + j) * inverse);
    if (!stats) continue;
    stats[2 * i] = best[0];
    stats[2 * i + 1] = inverse[0];
  }
}

// The same P from what softmax_rows left in `stats`, in place.
inline void softmax_again(const AttentionShape& s, const QueryBlock& block, float* scores,
                          long t_pad, const float* stats) {
  for (long i = 0; i < block.rows; i++) {
    const long seen = keys_seen(s, block.first + i);
    const vf best = splat(stats[2 * i]), inverse = splat(stats[2 * i + 1]);
    float* row = scores + i * t_pad;
    for (long j = 0; j < block.seen; j += W) {
      const vf x = vexp((load(row + j) - best) * splat(s.scale));
      store(row + j, select(first_lanes(seen - j), x, vf{}) * inverse);
    }
  }
}

// dS = P (dP - sum_j P dP) scale, in place of dP.
inline void softmax_backward(const AttentionShape& s, const QueryBlock& block, const float* p,
                             float* d_s, long t_pad) {
  for (long i = 0; i < block.rows; i++) {
    const long seen = keys_seen(s, block.first + i);
    float* row = d_s + i * t_pad;
    const float* pr = p + i * t_pad;
    vf sum = vf{};
    for (long j = 0; j < block.seen; j += W)
      sum = fma(load(pr + j), select(first_lanes(seen - j), load(row + j), vf{}), sum);
    const vf mean = sum_lanes(sum);
    for (long j = 0; j < block.seen; j += W) {
      const vf x = load(pr + j) * (load(row + j) - mean) * splat(s.scale);
      store(row + j, select(first_lanes(seen - j), x, vf{}));
    }
  }
}

struct AttentionScratch {
  float *k_columns, *v_columns, *p, *scores, *exact;
  AttentionScratch(const AttentionShape& s, float* at) {
    const long t_pad = padded(s.t), rows = attention_rows(s.t_q, s.t);
    k_columns = at;
    v_columns = k_columns + s.d_k * t_pad;
    p = v_columns + s.d_v * t_pad;
    scores = p + rows * t_pad;
    exact = scores + rows * t_pad;
  }
};

// saved [heads, t_q, attention_saved_row(t)]; scratch: attention_room
inline void attention_forward(const AttentionShape& s, const float* q, long q_ld, const float* k,
                              long k_ld, const float* v, long v_ld, float* o, long o_ld,
                              float* saved, float* scratch) {
  const long t_pad = padded(s.t), saved_row = attention_saved_row(s.t);
  const AttentionScratch room(s, scratch);
  for (long h = 0; h < s.heads; h++) {
    if (is_lone(s.t_q, s.t, s.d_k, s.d_v)) {
      lone_forward(s.t, s.d_k, s.d_v, s.scale, q + h * s.d_k, k + h * s.d_k, k_ld, v + h * s.d_v,
                   v_ld, o + h * s.d_v, saved + h * saved_row);
      continue;
    }
    if (is_narrow(s.t_q, s.t, s.d_k, s.d_v)) {
      narrow_forward(s, q + h * s.d_k, q_ld, k + h * s.d_k, k_ld, v + h * s.d_v, v_ld,
                     o + h * s.d_v, o_ld, saved + h * s.t_q * saved_row, scratch);
      continue;
    }
    columns_of(k + h * s.d_k, k_ld, s.t, s.d_k, room.k_columns, t_pad);
    for (long b = 0; b < block_count(s); b++) {
      const QueryBlock block = query_block(s, b);
      float* kept = saved + (h * s.t_q + block.first) * saved_row;
      float* p = s.t <= ATTENTION_WHOLE ? kept : room.p;
      gemm(block.rows, block.seen, s.d_k, q + block.first * q_ld + h * s.d_k, q_ld, 1,
           room.k_columns, t_pad, room.scores, t_pad);
      softmax_rows(s, block, room.scores, p, t_pad, s.t <= ATTENTION_WHOLE ? nullptr : kept);
      gemm_exact(block.rows, s.d_v, block.seen, p, t_pad, 1, v + h * s.d_v, v_ld,
                 o + block.first * o_ld + h * s.d_v, o_ld, Epilogue(), room.exact);
    }
  }
}

// `o` is what forward wrote, of the rows' stride o_ld as d_o. dV = P^T dO; dP = dO V^T; dS = P (dP
// - sum_j P dP) scale; dQ = dS K; dK = dS^T Q. The last block of rows goes first: it sees every
// key, so the others add.
inline void attention_backward(const AttentionShape& s, const float* q, long q_ld, const float* k,
                               long k_ld, const float* v, long v_ld, const float* o,
                               const float* d_o, long o_ld, const float* saved, float* d_q,
                               long dq_ld, float* d_k, long dk_ld, float* d_v, long dv_ld,
                               float* scratch) {
  const long t_pad = padded(s.t), saved_row = attention_saved_row(s.t);
  const long blocks = block_count(s);
  const AttentionScratch room(s, scratch);
  for (long h = 0; h < s.heads; h++) {
    const float* kh = k + h * s.d_k;
    if (is_lone(s.t_q, s.t, s.d_k, s.d_v)) {
      lone_backward(s.t, s.d_k, s.d_v, s.scale, q + h * s.d_k, kh, k_ld, v + h * s.d_v, v_ld,
                    d_o + h * s.d_v, saved + h * saved_row, d_q + h * s.d_k, d_k + h * s.d_k, dk_ld,
                    s.add_dk, d_v + h * s.d_v, dv_ld, s.add_dv);
      continue;
    }
    if (is_narrow(s.t_q, s.t, s.d_k, s.d_v)) {
      narrow_backward(s, q + h * s.d_k, q_ld, kh, k_ld, v + h * s.d_v, v_ld, o + h * s.d_v,
                      d_o + h * s.d_v, o_ld, saved + h * s.t_q * saved_row, d_q + h * s.d_k, dq_ld,
                      d_k + h * s.d_k, dk_ld, d_v + h * s.d_v, dv_ld, scratch);
      continue;
    }
    columns_of(v + h * s.d_v, v_ld, s.t, s.d_v, room.v_columns, t_pad);
    if (s.t > ATTENTION_WHOLE) columns_of(kh, k_ld, s.t, s.d_k, room.k_columns, t_pad);
    for (long b = blocks - 1; b >= 0; b--) {
      const QueryBlock block = query_block(s, b);
      const float* kept = saved + (h * s.t_q + block.first) * saved_row;
      const float* qh = q + block.first * q_ld + h * s.d_k;
      const float* doh = d_o + block.first * o_ld + h * s.d_v;
      const float* p = kept;
      if (s.t > ATTENTION_WHOLE) {
        gemm(block.rows, block.seen, s.d_k, qh, q_ld, 1, room.k_columns, t_pad, room.p, t_pad);
        softmax_again(s, block, room.p, t_pad, kept);
        p = room.p;
      }
      Epilogue dk_epilogue, dv_epilogue;
      dk_epilogue.add = s.add_dk || b < blocks - 1;
      dv_epilogue.add = s.add_dv || b < blocks - 1;
      gemm_exact(block.seen, s.d_v, block.rows, p, 1, t_pad, doh, o_ld, d_v + h * s.d_v, dv_ld,
                 dv_epilogue, room.exact);
      gemm(block.rows, block.seen, s.d_v, doh, o_ld, 1, room.v_columns, t_pad, room.scores, t_pad);
      softmax_backward(s, block, p, room.scores, t_pad);
      gemm_exact(block.rows, s.d_k, block.seen, room.scores, t_pad, 1, kh, k_ld,
                 d_q + block.first * dq_ld + h * s.d_k, dq_ld, Epilogue(), room.exact);
      gemm_exact(block.seen, s.d_k, block.rows, room.scores, 1, t_pad, qh, q_ld, d_k + h * s.d_k,
                 dk_ld, dk_epilogue, room.exact);
    }
  }
}

}  // namespace

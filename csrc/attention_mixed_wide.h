// Generalised attention of plain values whose heads are whole vectors wide (attention_mixed.h has
// the others, and says what is computed): every product is a gemm, a head at a time, whose sums are
// chains. A block of query rows' weights, [rows, heads, ld], stays near.
#pragma once

#include "attention_mixed_weights.h"
#include "attention_tile.h"
#include "gemm.h"

namespace {

using namespace compfast;

// Columns [d, ld], lanes past T zero.
inline void mixed_columns(const float* in, long in_ld, long t, long d, float* out, long ld) {
  columns_of(in, in_ld, t, d, out, ld);
  for (long c = 0; c < d; c++) std::memset(out + c * ld + t, 0, (padded(t) - t) * sizeof(float));
}

// out [rows, columns] += in
inline void mixed_add(const float* in, long in_ld, long rows, long columns, float* out,
                      long out_ld) {
  for (long r = 0; r < rows; r++)
    for (long c = 0; c < columns; c++) out[r * out_ld + c] += in[r * in_ld + c];
}

// out [rows, columns] = in x factor, columns in whole vectors
inline void mixed_scaled(const float* in, long in_ld, long rows, long columns, float factor,
                         float* out) {
  for (long r = 0; r < rows; r++)
    for (long c = 0; c < columns; c += W)
      store(out + r * columns + c, load(in + r * in_ld + c) * splat(factor));
}

// A block's weights from room.scaled and room.k, and what dropout leaves of them.
inline void mixed_wide_weights(const MixedShape& s, const MixedBlock& block, const float* relative,
                               long relative_ld, const float* keep, long keep_ld,
                               const MixedRoom& room) {
  const long ld = room.ld, q_ld = s.heads * s.d_k;
  for (long h = 0; h < s.heads; h++) {
    Epilogue e;
    if (relative) e.residual = relative + h * relative_ld + mixed_offset(s, block.first);
    e.residual_ld = -1;  // the next query row is one position nearer to every key
    gemm(block.rows, block.seen, s.d_k, room.scaled + block.first * q_ld + h * s.d_k, q_ld, 1,
         room.k + h * s.d_k * ld, ld, room.weights + h * ld, room.row, e);
  }
  mixed_weights(s, block, keep, keep_ld, room);
}

inline void mixed_wide_forward(const MixedShape& s, const float* q, long q_ld, const float* k,
                               long k_ld, const float* v, long v_ld, const float* relative,
                               long relative_ld, const float* keep, long keep_ld, float* o,
                               long o_ld, const MixedRoom& room) {
  const float* weights = keep ? room.kept : room.weights;
  mixed_columns(k, k_ld, s.t, s.heads * s.d_k, room.k, room.ld);
  mixed_scaled(q, q_ld, s.t_q, s.heads * s.d_k, s.scale, room.scaled);
  for (long first = 0; first < s.t_q; first += MIXED_WIDE_ROWS) {
    const MixedBlock block = mixed_block(s, first, MIXED_WIDE_ROWS);
    mixed_wide_weights(s, block, relative, relative_ld, keep, keep_ld, room);
    for (long h = 0; h < s.heads; h++)
      gemm(block.rows, s.d_v, block.seen, weights + h * room.ld, room.row, 1, v + h * s.d_v, v_ld,
           o + first * o_ld + h * s.d_v, o_ld);
  }
}

// mixed_relative_backward takes MIXED_ROWS rows at a time.
inline void mixed_wide_relative(const MixedShape& s, const MixedBlock& block,
                                const MixedRoom& room) {
  for (long at = 0; at < block.rows; at += MIXED_ROWS) {
    const long rows = block.rows - at < MIXED_ROWS ? block.rows - at : MIXED_ROWS;
    MixedRoom part = room;
    part.d_weights += at * room.row;
    mixed_relative_backward(s, {block.first + at, rows, block.seen}, part);
  }
}

// As mixed_backward. The last block of rows goes first: it sees every key, so the others add.
inline void mixed_wide_backward(const MixedShape& s, const float* q, long q_ld, const float* k,
                                long k_ld, const float* v, long v_ld, const float* relative,
                                long relative_ld, const float* keep, long keep_ld, const float* d_o,
                                long o_ld, float* d_q, long dq_ld, float* d_k, long dk_ld,
                                float* d_v, long dv_ld, float* d_relative, const MixedRoom& room) {
  const long ld = room.ld, all = s.heads * s.d_k;
  const float* weights = keep ? room.kept : room.weights;
  float* keys = room.d_k;  // scaled rows: the gradients of k have no columns here
  mixed_columns(k, k_ld, s.t, all, room.k, ld);
  mixed_columns(v, v_ld, s.t, s.heads * s.d_v, room.v, ld);
  mixed_scaled(q, q_ld, s.t_q, all, s.scale, room.scaled);
  mixed_scaled(k, k_ld, s.t, all, s.scale, keys);
  std::memset(room.d_relative, 0, (room.d_deep - room.d_relative) * sizeof(float));
  const long blocks = (s.t_q + MIXED_WIDE_ROWS - 1) / MIXED_WIDE_ROWS;
  for (long b = blocks - 1; b >= 0; b--) {
    const MixedBlock block = mixed_block(s, b * MIXED_WIDE_ROWS, MIXED_WIDE_ROWS);
    Epilogue to_k, to_v;
    to_k.add = s.add_dk || b < blocks - 1;
    to_v.add = s.add_dv || b < blocks - 1;
    mixed_wide_weights(s, block, relative, relative_ld, keep, keep_ld, room);
    for (long h = 0; h < s.heads; h++) {
      const float* own = d_o + block.first * o_ld + h * s.d_v;
      gemm(block.rows, block.seen, s.d_v, own, o_ld, 1, room.v + h * s.d_v * ld, ld,
           room.d_weights + h * ld, room.row);
      gemm(block.seen, s.d_v, block.rows, weights + h * ld, 1, room.row, own, o_ld, d_v + h * s.d_v,
           dv_ld, to_v);
    }
    mixed_weights_backward(s, block, keep, keep_ld, room);
    if (d_relative) mixed_wide_relative(s, block, room);
    for (long h = 0; h < s.heads; h++) {
      const float* own = room.d_weights + h * ld;
      gemm(block.rows, s.d_k, block.seen, own, room.row, 1, keys + h * s.d_k, all,
           d_q + block.first * dq_ld + h * s.d_k, dq_ld);
      gemm(block.seen, s.d_k, block.rows, own, 1, room.row,
           room.scaled + block.first * all + h * s.d_k, all, d_k + h * s.d_k, dk_ld, to_k);
    }
  }
  if (d_relative)
    mixed_add(room.d_relative, room.relative_ld, s.heads, 2 * s.t - 1, d_relative, relative_ld);
}

}  // namespace

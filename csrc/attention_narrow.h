// Attention of heads of few columns over many keys, fp32; the equations are attention.h's. Forward
// keeps the scores of one tile's rows: their maxima first, then exp, then P V. Backward makes P of
// a tile again from what each row saved and, with sum_j P dP = dO . O (Dao et al. 2022), uses it at
// once for dV, dK and dQ. Sums over rows go up, sums over keys lane by lane, then over the lanes.
#pragma once

#include "attention_tile.h"

namespace {

using namespace compfast;

// The scores of a tile's rows over all keys that the last of them sees, [TILE_QUERIES, ld], and the
// largest of each row. Returns the keys covered, whole tiles.
inline long narrow_scores(const AttentionShape& s, long row, const float* x, const float* k,
                          long ld, float* scores, float (&best)[TILE_QUERIES]) {
  vf top[TILE_QUERIES];
  for (vf& own : top) own = splat(-__builtin_inff());
  const long last = row + TILE_QUERIES < s.t_q ? row + TILE_QUERIES - 1 : s.t_q - 1;
  const long all = keys_seen(s, row), some = keys_seen(s, last);
  long at = 0;
  for (; at < some; at += TILE_KEYS * W) {
    QueryTile tile;
    narrow_products(s.d_k, x, k + at, ld, tile);
    if (at + TILE_KEYS * W > all) narrow_mask(s, row, at, tile);
#pragma GCC unroll 4
    for (int r = 0; r < TILE_QUERIES; r++) {
      top[r] = vmax(top[r], vmax(tile[r][0], tile[r][1]));
      store(scores + r * ld + at, tile[r][0]);
      store(scores + r * ld + at + W, tile[r][1]);
    }
  }
  for (int r = 0; r < TILE_QUERIES; r++) best[r] = max_lanes(top[r])[0];
  return at;
}

// Sums over the lanes of COLUMNS products of P's rows with columns of V, in lane r row r's.
template <int COLUMNS>
inline void narrow_values(long keys, const float* p, const float* v, long ld, vf (&sums)[COLUMNS]) {
  vf acc[COLUMNS][TILE_QUERIES] = {};
  for (long at = 0; at < keys; at += W) {
    vf own[COLUMNS];
    for (int c = 0; c < COLUMNS; c++) own[c] = load(v + c * ld + at);
#pragma GCC unroll 4
    for (int r = 0; r < TILE_QUERIES; r++) {
      const vf row = load(p + r * ld + at);
      for (int c = 0; c < COLUMNS; c++) acc[c][r] = fma(row, own[c], acc[c][r]);
    }
  }
  for (int c = 0; c < COLUMNS; c++) sums[c] = lane_sums<TILE_QUERIES>(acc[c]);
}

struct NarrowRoom {
  long ld;
  float *k, *v, *d_k, *d_v;       // columns
  float *scores, *q, *d_o, *d_q;  // of a tile; of a group
  NarrowRoom(const AttentionShape& s, float* at) : ld(narrow_ld(s.t)) {
    k = at;
    v = k + s.d_k * ld;
    d_k = v + s.d_v * ld;
    d_v = d_k + s.d_k * ld;
    scores = d_v + s.d_v * ld;
    q = scores + TILE_QUERIES * ld;
    d_o = q + NARROW_GROUP * s.d_k;
    d_q = d_o + NARROW_GROUP * s.d_v;
  }
};

// One head; saved [t_q, 2]: a row's largest score in units of log 2, and 1 / sum.
inline void narrow_forward(const AttentionShape& s, const float* q, long q_ld, const float* k,
                           long k_ld, const float* v, long v_ld, float* o, long o_ld, float* saved,
                           float* scratch) {
  const NarrowRoom room(s, scratch);
  const long ld = room.ld;
  narrow_columns(k, k_ld, s.t, s.d_k, room.k, ld);
  narrow_columns(v, v_ld, s.t, s.d_v, room.v, ld);
  for (long row = 0; row < s.t_q; row += TILE_QUERIES) {
    const long rows = s.t_q - row < TILE_QUERIES ? s.t_q - row : TILE_QUERIES;
    float best[TILE_QUERIES], inverse[TILE_QUERIES];
    narrow_rows(q + row * q_ld, q_ld, rows, s.d_k, s.scale * LOG2_E, room.q);
    const long keys = narrow_scores(s, row, room.q, room.k, ld, room.scores, best);
    for (int r = 0; r < TILE_QUERIES; r++) {
      float* p = room.scores + r * ld;
      const vf own = splat(best[r]);
      vf sum[TILE_KEYS] = {};
      for (long at = 0; at < keys; at += TILE_KEYS * W)
        for (int n = 0; n < TILE_KEYS; n++) {
          const vf e = power_of_two(load(p + at + n * W) - own);
          sum[n] += e;
          store(p + at + n * W, e);
        }
      inverse[r] = 1.0f / sum_lanes(sum[0] + sum[1])[0];
    }
    for (long r = 0; r < rows; r++) {
      saved[2 * (row + r)] = best[r];
      saved[2 * (row + r) + 1] = inverse[r];
    }
    float* out = o + row * o_ld;
    long c = 0;
    for (; c + 2 <= s.d_v; c += 2) {
      vf sums[2];
      narrow_values<2>(keys, room.scores, room.v + c * ld, ld, sums);
      for (long r = 0; r < rows; r++)
        for (int i = 0; i < 2; i++) out[r * o_ld + c + i] = sums[i][r] * inverse[r];
    }
    if (c == s.d_v) continue;
    vf sums[1];
    narrow_values<1>(keys, room.scores, room.v + c * ld, ld, sums);
    for (long r = 0; r < rows; r++) out[r * o_ld + c] = sums[0][r] * inverse[r];
  }
}

// A tile of query rows from `row` on: its copies and what backward knows of each row. Rows past
// the last have P = 0.
struct NarrowQueries {
  long row;
  float *q, *d_o, *d_q;  // [d, TILE_QUERIES], [d, TILE_QUERIES], [d, TILE_QUERIES, W]
  float best[TILE_QUERIES], inverse[TILE_QUERIES];
  float mean[TILE_QUERIES];  // dO . O
};

// dK and dV of a tile's keys over one group of rows, added to the columns when it has passed: two
// short sums instead of one long.
struct alignas(64) NarrowKeys {
  float d_k[ATTENTION_NARROW * TILE_KEYS * W], d_v[ATTENTION_NARROW * TILE_KEYS * W];
};

// P and dS of one tile, at once added to all three gradients.
inline void narrow_backward_tile(const AttentionShape& s, const NarrowRoom& room,
                                 const NarrowQueries& own, long at, NarrowKeys& keys) {
  const long ld = room.ld;
  QueryTile p, d_s;
  narrow_products(s.d_k, own.q, room.k + at, ld, p);
  if (at + TILE_KEYS * W > keys_seen(s, own.row)) narrow_mask(s, own.row, at, p);
#pragma GCC unroll 4
  for (int r = 0; r < TILE_QUERIES; r++)
#pragma GCC unroll 2
    for (int n = 0; n < TILE_KEYS; n++)
      p[r][n] = power_of_two(p[r][n] - splat(own.best[r])) * splat(own.inverse[r]);
  narrow_add(s.d_v, own.d_o, p, keys.d_v);
  narrow_products(s.d_v, own.d_o, room.v + at, ld, d_s);
#pragma GCC unroll 4
  for (int r = 0; r < TILE_QUERIES; r++)
#pragma GCC unroll 2
    for (int n = 0; n < TILE_KEYS; n++) d_s[r][n] = p[r][n] * (d_s[r][n] - splat(own.mean[r]));
  narrow_add(s.d_k, own.q, d_s, keys.d_k);
  for (long c = 0; c < s.d_k; c++) {
    const vf first = load(room.k + c * ld + at), second = load(room.k + c * ld + at + W);
    float* to = own.d_q + c * TILE_QUERIES * W;
#pragma GCC unroll 4
    for (int r = 0; r < TILE_QUERIES; r++)
      store(to + r * W, fma(d_s[r][1], second, fma(d_s[r][0], first, load(to + r * W))));
  }
}

// dQ of a tile's rows, summed over the lanes.
inline void narrow_lanes(const AttentionShape& s, const NarrowQueries& own, long end, float* d_q,
                         long dq_ld) {
  for (long c = 0; c < s.d_k; c++) {
    vf lanes[TILE_QUERIES];
#pragma GCC unroll 4
    for (int r = 0; r < TILE_QUERIES; r++) lanes[r] = load(own.d_q + (c * TILE_QUERIES + r) * W);
    const vf sums = lane_sums(lanes) * splat(s.scale);
    for (long r = 0; r < TILE_QUERIES && own.row + r < end; r++)
      d_q[(own.row + r) * dq_ld + c] = sums[r];
  }
}

// Rows [row, row + rows) of q, o, d_o and saved; dQ is cleared.
inline void narrow_queries(const AttentionShape& s, long rows, const float* q, long q_ld,
                           const float* o, const float* d_o, long o_ld, const float* saved,
                           NarrowQueries& own) {
  float out[ATTENTION_NARROW * TILE_QUERIES];
  narrow_rows(q, q_ld, rows, s.d_k, s.scale * LOG2_E, own.q);
  narrow_rows(d_o, o_ld, rows, s.d_v, 1.0f, own.d_o);
  narrow_rows(o, o_ld, rows, s.d_v, 1.0f, out);
  for (int r = 0; r < TILE_QUERIES; r++) {
    own.mean[r] = 0.0f;
    own.best[r] = r < rows ? saved[2 * r] : 0.0f;
    own.inverse[r] = r < rows ? saved[2 * r + 1] : 0.0f;
  }
  for (long c = 0; c < s.d_v; c++)
    for (int r = 0; r < TILE_QUERIES; r++)
      own.mean[r] += own.d_o[c * TILE_QUERIES + r] * out[c * TILE_QUERIES + r];
  std::memset(own.d_q, 0, s.d_k * TILE_QUERIES * W * sizeof(float));
}

// One head. Rows go by in groups, so that a group's dQ stays near while all keys pass.
inline void narrow_backward(const AttentionShape& s, const float* q, long q_ld, const float* k,
                            long k_ld, const float* v, long v_ld, const float* o, const float* d_o,
                            long o_ld, const float* saved, float* d_q, long dq_ld, float* d_k,
                            long dk_ld, float* d_v, long dv_ld, float* scratch) {
  const NarrowRoom room(s, scratch);
  const long ld = room.ld;
  narrow_columns(k, k_ld, s.t, s.d_k, room.k, ld);
  narrow_columns(v, v_ld, s.t, s.d_v, room.v, ld);
  std::memset(room.d_k, 0, (s.d_k + s.d_v) * ld * sizeof(float));
  NarrowQueries tiles[NARROW_GROUP / TILE_QUERIES];
  for (long first = 0; first < s.t_q; first += NARROW_GROUP) {
    const long end = first + NARROW_GROUP < s.t_q ? first + NARROW_GROUP : s.t_q;
    const long count = (end - first + TILE_QUERIES - 1) / TILE_QUERIES;
    for (long i = 0; i < count; i++) {
      const long at = i * TILE_QUERIES, row = first + at;
      const long rows = end - row < TILE_QUERIES ? end - row : TILE_QUERIES;
      tiles[i].row = row;
      tiles[i].q = room.q + at * s.d_k;
      tiles[i].d_o = room.d_o + at * s.d_v;
      tiles[i].d_q = room.d_q + at * s.d_k * W;
      narrow_queries(s, rows, q + row * q_ld, q_ld, o + row * o_ld, d_o + row * o_ld, o_ld,
                     saved + 2 * row, tiles[i]);
    }
    const long seen = keys_seen(s, end - 1);
    for (long at = 0; at < seen; at += TILE_KEYS * W) {
      NarrowKeys keys = {};
      for (long i = 0; i < count; i++)
        if (keys_seen(s, tiles[i].row + TILE_QUERIES - 1) > at)
          narrow_backward_tile(s, room, tiles[i], at, keys);
      narrow_store(s.d_k, keys.d_k, room.d_k + at, ld);
      narrow_store(s.d_v, keys.d_v, room.d_v + at, ld);
    }
    for (long i = 0; i < count; i++) narrow_lanes(s, tiles[i], end, d_q, dq_ld);
  }
  narrow_gradient(room.d_v, ld, s.t, s.d_v, 1.0f, d_v, dv_ld, s.add_dv);
  narrow_gradient(room.d_k, ld, s.t, s.d_k, LN_2, d_k, dk_ld, s.add_dk);
}

}  // namespace

// Weights of generalised attention, a block of query rows at a time, [rows, heads, ld]: from
// scores, and back to the gradient of the scores. Keys that a row does not see, and lanes past the
// last key, have weight 0 and gradient 0, whatever stands there.
#pragma once

#include "attention_mixed_sizes.h"
#include "lane_products.h"
#include "simd.h"

namespace {

using namespace compfast;

// Query rows [first, first + rows), none of which sees a key from `seen` on.
struct MixedBlock {
  long first, rows, seen;
};

inline long mixed_seen(const MixedShape& s, long row) {
  return s.causal ? row + s.t - s.t_q + 1 : s.t;
}

inline MixedBlock mixed_block(const MixedShape& s, long first, long most = MIXED_ROWS) {
  const long rows = s.t_q - first < most ? s.t_q - first : most;
  return {first, rows, mixed_seen(s, first + rows - 1)};
}

// Where in a head's relative bias key 0 of this query row stands.
inline long mixed_offset(const MixedShape& s, long row) { return s.t_q - 1 - row; }

// The sequence's columns, [heads * d, ld], and what one block needs.
struct MixedRoom {
  long ld, row, relative_ld;                    // row: of all heads
  float *k, *v;                                 // of the sequence
  float *d_k, *d_v, *d_relative, *d_deep;       // its gradients; each has a stride of its own
  float *weights, *kept, *d_weights, *divisor;  // kept: after dropout
  float *hidden, *mixed, *d_mixed, *layer;      // [rows, d_v, ld]; [heads * d_v, ld]
  float* scaled;                                // wide heads' Q times scale, [t_q, heads * d_k]
  MixedRoom(const MixedShape& s, float* at)
      : ld(mixed_ld(s.t)), row(s.heads * ld), relative_ld(mixed_gradient_ld(s.t)) {
    const long keys = s.heads * s.d_k * ld, values = s.heads * s.d_v * ld;
    const bool wide = mixed_is_wide(s.t_q, s.d_k, s.d_v, s.path);
    const long rows = wide ? MIXED_WIDE_ROWS : MIXED_ROWS;
    k = at;
    v = k + keys;
    d_k = v + values;
    d_v = d_k + keys;
    d_relative = d_v + values;
    d_deep = d_relative + s.heads * relative_ld;
    const long layer_size = s.path == MIXED_VALUE_DEEP ? padded(s.heads * s.d_v * s.d_v) : 0;
    weights = d_deep + layer_size;
    kept = weights + rows * row;
    d_weights = kept + rows * row;
    divisor = d_weights + rows * row;
    hidden = divisor + rows * ld;
    mixed = hidden + rows * s.d_v * ld;
    d_mixed = mixed + rows * s.d_v * ld;
    layer = d_mixed + rows * s.d_v * ld;
    scaled = layer;  // plain values have no second layer
  }
};

// room.weights = q k^T scale + relative
inline void mixed_scores(const MixedShape& s, const MixedBlock& block, const float* q, long q_ld,
                         const float* relative, long relative_ld, const MixedRoom& room) {
  // the next query row is one position nearer to every key
  const LaneStart start{relative ? relative + mixed_offset(s, block.first) : nullptr, -1, 0,
                        relative_ld};
  lane_splats(block.rows, {s.heads, s.d_k, block.seen, s.scale},
              {q + block.first * q_ld, q_ld, 1, s.d_k}, {room.k, 0, room.ld, s.d_k * room.ld},
              start, {room.weights, room.row, 0, room.ld});
}

constexpr long SOFTMAX_ROWS = 4;

// R heads' rows, ld apart: softmax over the keys that they see. A row alone would wait for its
// maximum and its sum.
template <int R>
inline void mixed_softmax(long seen, long end, float* row, long ld) {
  const float negative = -__builtin_inff();
  const long whole = seen / W * W;
  const vi last = first_lanes(seen - whole);
  vf best[R], sum[R];
  for (int r = 0; r < R; r++) best[r] = splat(negative), sum[r] = vf{};
  for (long j = 0; j < whole; j += W)
    for (int r = 0; r < R; r++) best[r] = vmax(best[r], load(row + r * ld + j));
  if (whole < seen)
    for (int r = 0; r < R; r++)
      best[r] = vmax(best[r], select(last, load(row + r * ld + whole), splat(negative)));
  for (int r = 0; r < R; r++) best[r] = max_lanes(best[r]);
  for (long j = 0; j < whole; j += W)
    for (int r = 0; r < R; r++) {
      const vf e = vexp(load(row + r * ld + j) - best[r]);
      sum[r] += e;
      store(row + r * ld + j, e);
    }
  for (long j = whole; j < end; j += W) {
    const vi mask = first_lanes(seen - j);
    for (int r = 0; r < R; r++) {
      const vf e = select(mask, vexp(load(row + r * ld + j) - best[r]), vf{});
      sum[r] += e;
      store(row + r * ld + j, e);
    }
  }
  for (int r = 0; r < R; r++) sum[r] = splat(1.0f) / sum_lanes(sum[r]);
  for (long j = 0; j < seen; j += W)
    for (int r = 0; r < R; r++) store(row + r * ld + j, load(row + r * ld + j) * sum[r]);
}

// All heads of a row: s / sqrt(mean over heads of s^2 + epsilon); the divisor is 1 / that root.
inline void mixed_rms_head(const MixedShape& s, long seen, long end, float* row, long ld,
                           float* divisor) {
  const vf share = splat(1.0f / (float)s.heads);
  for (long j = 0; j < end; j += W) {
    const vi mask = first_lanes(seen - j);
    vf sum = vf{};
    for (long h = 0; h < s.heads; h++) {
      const vf x = select(mask, load(row + h * ld + j), vf{});
      sum = fma(x, x, sum);
    }
    const vf inverse = splat(1.0f) / vsqrt(fma(sum, share, splat(s.epsilon)));
    store(divisor + j, inverse);
    for (long h = 0; h < s.heads; h++) {
      float* to = row + h * ld + j;
      store(to, select(mask, load(to) * inverse, vf{}));
    }
  }
}

// Scores -> weights in place, and times `keep` [rows, keep_ld] in room.kept where there is dropout.
inline void mixed_weights(const MixedShape& s, const MixedBlock& block, const float* keep,
                          long keep_ld, const MixedRoom& room) {
  const long ld = room.ld;
  for (long i = 0; i < block.rows; i++) {
    float* row = room.weights + i * room.row;
    const long seen = mixed_seen(s, block.first + i);
    if (s.weights == MIXED_RMS_HEAD)
      mixed_rms_head(s, seen, block.seen, row, ld, room.divisor + i * ld);
    if (s.weights == MIXED_SOFTMAX) {
      long h = 0;
      for (; h + SOFTMAX_ROWS <= s.heads; h += SOFTMAX_ROWS)
        mixed_softmax<SOFTMAX_ROWS>(seen, block.seen, row + h * ld, ld);
      for (; h < s.heads; h++) mixed_softmax<1>(seen, block.seen, row + h * ld, ld);
    }
    for (long h = 0; h < s.heads; h++) {
      float* own = row + h * ld;
      if (s.weights == MIXED_LINEAR)
        for (long j = seen / W * W; j < block.seen; j += W)
          store(own + j, select(first_lanes(seen - j), load(own + j), vf{}));
      if (!keep) continue;
      const float* factor = keep + (block.first + i) * keep_ld;
      float* to = room.kept + i * room.row + h * ld;
      for (long j = 0; j < block.seen; j += W)
        store(to + j, select(first_lanes(seen - j), load(own + j) * load(factor + j), vf{}));
    }
  }
}

// R heads' rows: dS = P (dP - sum of P dP), in place of dP.
template <int R>
inline void mixed_softmax_backward(long seen, long end, const float* row, float* d_row, long ld) {
  const long whole = seen / W * W;
  const vi last = first_lanes(seen - whole);
  vf mean[R];
  for (int r = 0; r < R; r++) mean[r] = vf{};
  for (long j = 0; j < whole; j += W)
    for (int r = 0; r < R; r++)
      mean[r] = fma(load(row + r * ld + j), load(d_row + r * ld + j), mean[r]);
  if (whole < seen)
    for (int r = 0; r < R; r++) {
      const vf d = select(last, load(d_row + r * ld + whole), vf{});
      mean[r] = fma(load(row + r * ld + whole), d, mean[r]);
    }
  for (int r = 0; r < R; r++) mean[r] = sum_lanes(mean[r]);
  for (long j = 0; j < end; j += W) {
    const vi mask = first_lanes(seen - j);
    for (int r = 0; r < R; r++) {
      float* to = d_row + r * ld + j;
      store(to, select(mask, load(row + r * ld + j) * (load(to) - mean[r]), vf{}));
    }
  }
}

// All heads of a row: dS = (dA - A mean over heads of A dA) x divisor, in place of dA.
inline void mixed_rms_head_backward(const MixedShape& s, long seen, long end, const float* row,
                                    const float* divisor, long ld, float* d_row) {
  const vf share = splat(1.0f / (float)s.heads);
  for (long j = 0; j < end; j += W) {
    vf sum = vf{};
    for (long h = 0; h < s.heads; h++)
      sum = fma(load(row + h * ld + j), load(d_row + h * ld + j), sum);
    const vf mean = sum * share, inverse = load(divisor + j);
    const vi mask = first_lanes(seen - j);
    for (long h = 0; h < s.heads; h++) {
      float* to = d_row + h * ld + j;
      const vf x = (load(to) - load(row + h * ld + j) * mean) * inverse;
      store(to, select(mask, x, vf{}));
    }
  }
}

// room.d_weights, the gradient of what dropout left, becomes that of the scores.
inline void mixed_weights_backward(const MixedShape& s, const MixedBlock& block, const float* keep,
                                   long keep_ld, const MixedRoom& room) {
  const long ld = room.ld;
  for (long i = 0; i < block.rows; i++) {
    const float* row = room.weights + i * room.row;
    float* d_row = room.d_weights + i * room.row;
    const long seen = mixed_seen(s, block.first + i);
    if (keep)
      for (long h = 0; h < s.heads; h++)
        for (long j = 0; j < block.seen; j += W) {
          const vf factor = load(keep + (block.first + i) * keep_ld + j);
          store(d_row + h * ld + j, load(d_row + h * ld + j) * factor);
        }
    if (s.weights == MIXED_RMS_HEAD) {
      mixed_rms_head_backward(s, seen, block.seen, row, room.divisor + i * ld, ld, d_row);
      continue;
    }
    long h = 0;
    if (s.weights == MIXED_SOFTMAX) {
      for (; h + SOFTMAX_ROWS <= s.heads; h += SOFTMAX_ROWS)
        mixed_softmax_backward<SOFTMAX_ROWS>(seen, block.seen, row + h * ld, d_row + h * ld, ld);
      for (; h < s.heads; h++)
        mixed_softmax_backward<1>(seen, block.seen, row + h * ld, d_row + h * ld, ld);
    }
    for (; h < s.heads; h++) {
      float* own = d_row + h * ld;
      for (long j = seen / W * W; j < block.seen; j += W)
        store(own + j, select(first_lanes(seen - j), load(own + j), vf{}));
    }
  }
}

// room.d_relative += dS of a block. Rows are shifted against each other by one position: their
// vectors are read where they lie and added once, since a vector that straddles two which were
// stored just before waits for both.
inline void mixed_relative_backward(const MixedShape& s, const MixedBlock& block,
                                    const MixedRoom& room) {
  const long last = block.rows - 1, end = block.seen + last;
  float* first = room.d_relative + mixed_offset(s, block.first + last);
  for (long j = 0; j < end; j += W) {
    vi mask[MIXED_ROWS];
    const float* from[MIXED_ROWS];
    for (long i = 0; i < MIXED_ROWS; i++) {
      const long shift = i <= last ? last - i : 0;
      mask[i] = first_lanes(i <= last ? block.seen + shift - j : 0) & ~first_lanes(shift - j);
      from[i] = room.d_weights + i * room.row + j - shift;
    }
    for (long h = 0; h < s.heads; h++) {
      vf sum = vf{};
#pragma GCC unroll 8
      for (int i = 0; i < MIXED_ROWS; i++)
        sum += select(mask[i], load(from[i] + h * room.ld), vf{});
      float* to = first + h * room.relative_ld + j;
      store(to, load(to) + sum);
    }
  }
}

}  // namespace

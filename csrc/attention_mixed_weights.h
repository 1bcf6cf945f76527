// Weights of generalised attention, a block of query rows at a time, [rows, heads, T padded]: from
// scores, and back to the gradient of the scores. Keys that a row does not see, and lanes past the
// last key, have weight 0 and gradient 0, whatever stands there.
#pragma once

#include "attention_mixed_sizes.h"
#include "gemm.h"
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

inline MixedBlock mixed_block(const MixedShape& s, long first) {
  const long rows = s.t_q - first < MIXED_ROWS ? s.t_q - first : MIXED_ROWS;
  return {first, rows, mixed_seen(s, first + rows - 1)};
}

// Where in a head's relative bias key 0 of this query row stands.
inline long mixed_offset(const MixedShape& s, long row) { return s.t_q - 1 - row; }

// The sequence's columns, [heads * d, T padded], and what one block needs.
struct MixedRoom {
  long t_pad, row;                              // a row's stride: all its heads
  float *k, *v, *d_k, *d_v, *d_relative;        // of the sequence; k carries the scale
  float *weights, *kept, *d_weights, *divisor;  // kept: after dropout
  float *hidden, *mixed, *d_mixed, *layer;      // [rows, d_v, T padded]; [heads * d_v, T padded]
  MixedRoom(const MixedShape& s, float* at) : t_pad(padded(s.t)), row(s.heads * padded(s.t)) {
    const long keys = s.heads * s.d_k * t_pad, values = s.heads * s.d_v * t_pad;
    k = at;
    v = k + keys;
    d_k = v + values;
    d_v = d_k + keys;
    d_relative = d_v + values;
    weights = d_relative + 2 * row;
    kept = weights + MIXED_ROWS * row;
    d_weights = kept + MIXED_ROWS * row;
    divisor = d_weights + MIXED_ROWS * row;
    hidden = divisor + MIXED_ROWS * t_pad;
    mixed = hidden + MIXED_ROWS * s.d_v * t_pad;
    d_mixed = mixed + MIXED_ROWS * s.d_v * t_pad;
    layer = d_mixed + MIXED_ROWS * s.d_v * t_pad;
  }
};

// room.weights = q k^T scale + relative
inline void mixed_scores(const MixedShape& s, const MixedBlock& block, const float* q, long q_ld,
                         const float* relative, long relative_ld, const MixedRoom& room) {
  for (long h = 0; h < s.heads; h++) {
    Epilogue epilogue;
    if (relative) {
      epilogue.residual = relative + h * relative_ld + mixed_offset(s, block.first);
      epilogue.residual_ld = -1;  // the next query row is one position nearer to every key
    }
    gemm(block.rows, block.seen, s.d_k, q + block.first * q_ld + h * s.d_k, q_ld, 1,
         room.k + h * s.d_k * room.t_pad, room.t_pad, room.weights + h * room.t_pad, room.row,
         epilogue);
  }
}

// One head's row: softmax over the keys that it sees.
inline void mixed_softmax(long seen, long end, float* row) {
  const float negative = -__builtin_inff();
  vf top = splat(negative);
  for (long j = 0; j < seen; j += W)
    top = vmax(top, select(first_lanes(seen - j), load(row + j), splat(negative)));
  const vf best = max_lanes(top);
  vf sum = vf{};
  for (long j = 0; j < end; j += W) {
    const vf e = select(first_lanes(seen - j), vexp(load(row + j) - best), vf{});
    sum += e;
    store(row + j, e);
  }
  const vf inverse = splat(1.0f) / sum_lanes(sum);
  for (long j = 0; j < seen; j += W) store(row + j, load(row + j) * inverse);
}

// All heads of a row: s / sqrt(mean over heads of s^2 + epsilon); the divisor is 1 / that root.
inline void mixed_rms_head(const MixedShape& s, long seen, long end, float* row, long t_pad,
                           float* divisor) {
  for (long j = 0; j < end; j += W) {
    const vi mask = first_lanes(seen - j);
    vf sum = vf{};
    for (long h = 0; h < s.heads; h++) {
      const vf x = select(mask, load(row + h * t_pad + j), vf{});
      sum = fma(x, x, sum);
    }
    const vf mean = sum / splat((float)s.heads);
    const vf inverse = splat(1.0f) / vsqrt(mean + splat(s.epsilon));
    store(divisor + j, inverse);
    for (long h = 0; h < s.heads; h++) {
      float* to = row + h * t_pad + j;
      store(to, select(mask, load(to) * inverse, vf{}));
    }
  }
}

// Scores -> weights in place, and times `keep` [rows, keep_ld] in room.kept where there is dropout.
inline void mixed_weights(const MixedShape& s, const MixedBlock& block, const float* keep,
                          long keep_ld, const MixedRoom& room) {
  const long t_pad = room.t_pad;
  for (long i = 0; i < block.rows; i++) {
    float* row = room.weights + i * room.row;
    const long seen = mixed_seen(s, block.first + i);
    if (s.weights == MIXED_RMS_HEAD)
      mixed_rms_head(s, seen, block.seen, row, t_pad, room.divisor + i * t_pad);
    for (long h = 0; h < s.heads; h++) {
      float* own = row + h * t_pad;
      if (s.weights == MIXED_SOFTMAX) mixed_softmax(seen, block.seen, own);
      if (s.weights == MIXED_LINEAR)
        for (long j = seen / W * W; j < block.seen; j += W)
          store(own + j, select(first_lanes(seen - j), load(own + j), vf{}));
      if (!keep) continue;
      const float* factor = keep + (block.first + i) * keep_ld;
      float* to = room.kept + i * room.row + h * t_pad;
      for (long j = 0; j < block.seen; j += W)
        store(to + j, select(first_lanes(seen - j), load(own + j) * load(factor + j), vf{}));
    }
  }
}

// One head's row: dS = P (dP - sum of P dP); d_row and `relative`, which dS is added to.
inline void mixed_softmax_backward(long seen, long end, const float* row, float* d_row,
                                   float* relative) {
  vf sum = vf{};
  for (long j = 0; j < seen; j += W)
    sum = fma(load(row + j), select(first_lanes(seen - j), load(d_row + j), vf{}), sum);
  const vf mean = sum_lanes(sum);
  for (long j = 0; j < end; j += W) {
    const vf x = load(row + j) * (load(d_row + j) - mean);
    const vf d_s = select(first_lanes(seen - j), x, vf{});
    store(d_row + j, d_s);
    if (relative) store(relative + j, load(relative + j) + d_s);
  }
}

// All heads of a row: dS = (dA - A mean over heads of A dA) x divisor; the bias' strides are 2
// t_pad.
inline void mixed_rms_head_backward(const MixedShape& s, long seen, long end, const float* row,
                                    const float* divisor, long t_pad, float* d_row,
                                    float* relative) {
  for (long j = 0; j < end; j += W) {
    const vi mask = first_lanes(seen - j);
    vf sum = vf{};
    for (long h = 0; h < s.heads; h++)
      sum = fma(load(row + h * t_pad + j), load(d_row + h * t_pad + j), sum);
    const vf mean = sum / splat((float)s.heads), inverse = load(divisor + j);
    for (long h = 0; h < s.heads; h++) {
      float* to = d_row + h * t_pad + j;
      const vf x = (load(to) - load(row + h * t_pad + j) * mean) * inverse;
      const vf d_s = select(mask, x, vf{});
      store(to, d_s);
      if (!relative) continue;
      float* bias = relative + 2 * h * t_pad + j;
      store(bias, load(bias) + d_s);
    }
  }
}

// room.d_weights, the gradient of what dropout left, becomes that of the scores and is added to
// room.d_relative where `biased`.
inline void mixed_weights_backward(const MixedShape& s, const MixedBlock& block, const float* keep,
                                   long keep_ld, bool biased, const MixedRoom& room) {
  const long t_pad = room.t_pad;
  for (long i = 0; i < block.rows; i++) {
    const float* row = room.weights + i * room.row;
    float* d_row = room.d_weights + i * room.row;
    const long seen = mixed_seen(s, block.first + i);
    float* relative = biased ? room.d_relative + mixed_offset(s, block.first + i) : nullptr;
    if (keep)
      for (long h = 0; h < s.heads; h++)
        for (long j = 0; j < block.seen; j += W) {
          const vf factor = load(keep + (block.first + i) * keep_ld + j);
          store(d_row + h * t_pad + j, load(d_row + h * t_pad + j) * factor);
        }
    if (s.weights == MIXED_RMS_HEAD) {
      mixed_rms_head_backward(s, seen, block.seen, row, room.divisor + i * t_pad, t_pad, d_row,
                              relative);
      continue;
    }
    for (long h = 0; h < s.heads; h++) {
      float *own = d_row + h * t_pad, *bias = relative ? relative + 2 * h * t_pad : nullptr;
      if (s.weights == MIXED_SOFTMAX) {
        mixed_softmax_backward(seen, block.seen, row + h * t_pad, own, bias);
        continue;
      }
      for (long j = bias ? 0 : seen / W * W; j < block.seen; j += W) {
        const vf d_s = select(first_lanes(seen - j), load(own + j), vf{});
        store(own + j, d_s);
        if (bias) store(bias + j, load(bias + j) + d_s);
      }
    }
  }
}

}  // namespace

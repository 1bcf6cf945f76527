// Generalised attention: its kinds, its sizes and the room it wants; the same for every vector
// width.
#pragma once

#include "attention_sizes.h"

namespace compfast {

// How scores become weights.
enum MixedWeights : int32_t { MIXED_SOFTMAX, MIXED_LINEAR, MIXED_RMS_HEAD };

// What a query row makes of the values that it sees.
enum MixedPath : int32_t { MIXED_NONE, MIXED_VALUE_LINEAR, MIXED_VALUE_RELU, MIXED_VALUE_DEEP };

struct MixedShape {
  long t_q, t, heads, d_k, d_v;
  bool causal;
  float scale;
  int32_t weights, path;
  float epsilon;                        // of MIXED_RMS_HEAD, above 0
  bool add_dk = false, add_dv = false;  // dv goes first
};

// Query rows that pass together: keys and values are read once for all of them.
constexpr int64_t MIXED_ROWS = 8;
constexpr int64_t MIXED_WIDE_ROWS = 24;

// Heads of whole vectors, whatever a vector's width, have products of their own
// (attention_mixed_wide.h) where there are rows enough for a tile.
static constexpr bool mixed_is_wide(int64_t t_q, int64_t d_k, int64_t d_v, int32_t path) {
  return path == MIXED_NONE && d_k % 16 == 0 && d_v % 16 == 0 && t_q >= 4;
}

// The stride of a row of keys: an odd multiple of 16, since a power of two would put all rows into
// one set of the first cache.
static constexpr int64_t mixed_ld(int64_t t) { return to_pad(t) | 16; }

// Floats from one head's relative bias to the next: 2 t - 1 numbers, the rest is read and has no
// effect.
static constexpr int64_t mixed_relative_ld(int64_t t) { return 2 * to_pad(t); }

// Of the gradient of one sequence: whole vectors of rows that are shifted against each other.
static constexpr int64_t mixed_gradient_ld(int64_t t) { return 2 * mixed_ld(t) + 16; }

// Floats of scratch: columns of K, V and their gradients; what one sequence adds to the relative
// bias' and the generated layer's gradients; weights before and after dropout and their gradient,
// the divisors of MIXED_RMS_HEAD, three lots of mixed values, all of a block of rows; the generated
// layer's output for one row. Wide heads have scaled rows of Q beside those of K.
static constexpr int64_t mixed_room(int64_t t, int64_t heads, int64_t d_k, int64_t d_v,
                                    int32_t path) {
  const bool deep = path == MIXED_VALUE_DEEP, wide = mixed_is_wide(t, d_k, d_v, path);
  const int64_t columns = (2 + wide) * heads * d_k + (2 + deep) * heads * d_v;
  const int64_t rows = (wide ? MIXED_WIDE_ROWS : MIXED_ROWS) * (3 * heads + 1 + 3 * d_v);
  const int64_t layer = deep ? to_pad(heads * d_v * d_v) : 0;
  return (columns + rows) * mixed_ld(t) + heads * mixed_gradient_ld(t) + layer;
}

}  // namespace compfast

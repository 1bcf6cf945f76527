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
constexpr int64_t MIXED_ROWS = 4;

// Floats from one head's relative bias to the next: 2 t - 1 numbers, the rest is read and has no
// effect.
static constexpr int64_t mixed_relative_ld(int64_t t) { return 2 * to_pad(t); }

// Floats of scratch: columns of K, V and their gradients; the relative bias' gradient of one
// sequence; weights before and after dropout and their gradient, the divisors of MIXED_RMS_HEAD,
// three lots of mixed values, all of a block of rows; the generated layer of one row.
static constexpr int64_t mixed_room(int64_t t, int64_t heads, int64_t d_k, int64_t d_v,
                                    int32_t path) {
  const int64_t columns = 2 * heads * (d_k + d_v), relative = 2 * heads;
  const int64_t rows = MIXED_ROWS * (3 * heads + 1 + 3 * d_v);
  const int64_t layer = path == MIXED_VALUE_DEEP ? heads * d_v : 0;
  return (columns + relative + rows + layer) * to_pad(t);
}

}  // namespace compfast

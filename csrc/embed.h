// x[b, t] = token_table[tokens[b, t]] + position_table[t]; gradients in sequence order.
// d columns (up to the next whole vector) of rows that are ld floats apart. Token `first` has the
// table's first row; those before it add nothing.
#pragma once

#include "simd.h"

namespace {

inline void embed_forward(long sequences, long t, long d, long ld, long first,
                          const int32_t* tokens, const float* token_table,
                          const float* position_table, float* x) {
  for (long b = 0; b < sequences; b++)
    for (long i = 0; i < t; i++) {
      const long id = tokens[b * t + i] - first;
      const float* position = position_table + i * ld;
      float* out = x + (b * t + i) * ld;
      if (id < 0) {
        for (long j = 0; j < d; j += W) store(out + j, load(position + j));
        continue;
      }
      const float* row = token_table + id * ld;
      for (long j = 0; j < d; j += W) store(out + j, load(row + j) + load(position + j));
    }
}

inline void embed_backward(long sequences, long t, long d, long ld, long first,
                           const int32_t* tokens, const float* dx, float* d_token_table,
                           float* d_position_table) {
  for (long b = 0; b < sequences; b++)
    for (long i = 0; i < t; i++) {
      const long id = tokens[b * t + i] - first;
      float* position = d_position_table + i * ld;
      const float* grad = dx + (b * t + i) * ld;
      if (id < 0) {
        for (long j = 0; j < d; j += W) store(position + j, load(position + j) + load(grad + j));
        continue;
      }
      float* row = d_token_table + id * ld;
      for (long j = 0; j < d; j += W) {
        const vf g = load(grad + j);
        store(row + j, load(row + j) + g);
        store(position + j, load(position + j) + g);
      }
    }
}

}  // namespace

// x[b, t] = token_table[tokens[b, t]] + position_table[t]; gradients in sequence order.
// d columns (up to the next whole vector); x's rows are ld floats apart, the tables' table_ld.
// Token `first` has the table's first row; those before it add nothing, and so do positions whose
// table is null.
#pragma once

#include "simd.h"

namespace {

inline void copy_row(long d, const float* from, float* to) {
  for (long j = 0; j < d; j += W) store(to + j, load(from + j));
}

inline void add_row(long d, const float* from, float* to) {
  for (long j = 0; j < d; j += W) store(to + j, load(to + j) + load(from + j));
}

inline void embed_forward(long sequences, long t, long d, long ld, long table_ld, long first,
                          const int32_t* tokens, const float* token_table,
                          const float* position_table, float* x) {
  for (long b = 0; b < sequences; b++)
    for (long i = 0; i < t; i++) {
      const long id = tokens[b * t + i] - first;
      const float* row = id < 0 ? nullptr : token_table + id * table_ld;
      const float* position = position_table ? position_table + i * table_ld : nullptr;
      float* out = x + (b * t + i) * ld;
      if (row && position)
        for (long j = 0; j < d; j += W) store(out + j, load(row + j) + load(position + j));
      else if (row || position)
        copy_row(d, row ? row : position, out);
      else
        std::memset(out, 0, d * sizeof(float));
    }
}

inline void embed_backward(long sequences, long t, long d, long ld, long table_ld, long first,
                           const int32_t* tokens, const float* dx, float* d_token_table,
                           float* d_position_table) {
  for (long b = 0; b < sequences; b++)
    for (long i = 0; i < t; i++) {
      const long id = tokens[b * t + i] - first;
      const float* grad = dx + (b * t + i) * ld;
      if (id >= 0) add_row(d, grad, d_token_table + id * table_ld);
      if (d_position_table) add_row(d, grad, d_position_table + i * table_ld);
    }
}

}  // namespace

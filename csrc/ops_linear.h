// y = act(x W^T + b) and its gradients as a single operation, operands in float32 or bfloat16.
#pragma once

#include "linear.h"
#include "ops_rows.h"

namespace {
namespace ops {

inline uint32_t* take_pairs(long rows, long ld, Scratch& s) { return words(s.take(rows * ld)); }

// c [m, ld of b's columns] = a [m, k] b [k, n], both rounded to bfloat16; rows of a, b padded.
inline void rounded_product(long m, long n, long k, const float* a, const float* b, float* c,
                            const Epilogue& e, Scratch s) {
  const long ld = padded(n);
  uint32_t* left = take_pairs(m, pair_ld(k), s);
  pack_rows(m, k, a, padded(k), left, pair_ld(k));
  uint32_t* right = take_pairs(pairs(k), ld, s);
  pack_row_pairs(k, n, b, ld, right, ld);
  gemm<uint32_t>(m, n, pairs(k), left, pair_ld(k), 1, right, ld, c, ld, e);
}

// c [m, n] = a^T b for a [k, m], b [k, n], both rounded to bfloat16; rows of all padded.
inline void rounded_product_of_transposed(long m, long n, long k, const float* a, const float* b,
                                          float* c, Scratch s) {
  const long a_ld = padded(m), ld = padded(n);
  uint32_t* left = take_pairs(pairs(k), a_ld, s);
  pack_row_pairs(k, m, a, a_ld, left, a_ld);
  uint32_t* right = take_pairs(pairs(k), ld, s);
  pack_row_pairs(k, n, b, ld, right, ld);
  gemm<uint32_t>(m, n, pairs(k), left, 1, a_ld, right, ld, c, ld);
}

inline void linear_forward(const LinearShape& shape, const float* x, const float* w, const float* b,
                           float* y, float* slope, float* scratch) {
  Scratch s{scratch};
  const long n = shape.rows, in = shape.d_in, out = shape.d_out, ld = padded(out);
  OpRecord op{};
  op.d_in = (int32_t)in;
  op.d_out = (int32_t)out;
  op.weight_ld = (int32_t)in;
  op.packed_ld = (int32_t)ld;
  float* transposed = s.take(in * ld);
  transpose_weight(op, w, transposed);
  Epilogue e;
  if (b) e.bias = with_padding(1, out, b, s);
  float* to = room(n, out, y, s);
  if (shape.bf16)
    rounded_product(n, out, in, with_padding(n, in, x, s), transposed, to, e, s);
  else
    gemm(n, out, in, x, in, 1, transposed, ld, to, ld, e);
  if (shape.activation != IDENTITY) {
    float* d = room(n, out, slope, s);
    activate(shape.activation, to, d, n * ld);
    without_padding(n, out, d, slope);
  }
  without_padding(n, out, to, y);
}

inline void linear_backward(const LinearShape& shape, const float* x, const float* w,
                            const float* slope, const float* dy, float* dx, float* dw, float* db,
                            float* scratch) {
  Scratch s{scratch};
  const long n = shape.rows, in = shape.d_in, out = shape.d_out;
  const long in_ld = padded(in), out_ld = padded(out);
  float* dz = s.take(n * out_ld);
  pad_rows(n, out, dy, dz);
  if (shape.activation != IDENTITY)
    for (long r = 0; r < n; r++)
      for (long j = 0; j < out; j++) dz[r * out_ld + j] *= slope[r * out + j];
  if (db) {
    clear(db, out);
    column_sums(n, out, dz, out_ld, db);
  }
  const float* xp = with_padding(n, in, x, s);
  const float* wp = with_padding(out, in, w, s);
  float* to_w = room(out, in, dw, s);
  float* to_x = room(n, in, dx, s);
  if (shape.bf16) {
    rounded_product_of_transposed(out, in, n, dz, xp, to_w, s);
    rounded_product(n, in, out, dz, wp, to_x, {}, s);
  } else {
    gemm(out, in, n, dz, 1, out_ld, xp, in_ld, to_w, in_ld);
    gemm(n, in, out, dz, out_ld, 1, wp, in_ld, to_x, in_ld);
  }
  without_padding(out, in, to_w, dw);
  without_padding(n, in, to_x, dx);
}

}  // namespace ops
}  // namespace

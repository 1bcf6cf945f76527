// C[m, n] (+)= A[m, k] B[k, n], A with any two strides, B and C rows contiguous; operands are
// float32, or pairs of bfloat16 along k (bf16.h; k and strides then count pairs); C is float32.
// One microkernel serves a linear layer three times: X W^T (B = a transposed copy of the
// weights), dY W (B = the weights) and dY^T X (A read down its columns).
// Every element of C is one chain of multiply-adds over k = 0, 1, ..., whatever tile it falls into.
// n is covered in whole vectors: B and C must be readable and writable to the next multiple of W.
#pragma once

#include "bf16.h"
#include "simd.h"

namespace {

struct Epilogue {
  const float* bias = nullptr;      // [n], added to every row
  const float* residual = nullptr;  // [m, n], added
  long residual_ld = 0;
  const float* factor = nullptr;  // [m, n], multiplied (derivative of an activation)
  long factor_ld = 0;
  bool add = false;  // C += instead of C =
};

#if COMPFAST_WIDTH == 16 || defined(__aarch64__)
constexpr int TILE_ROWS = 12;  // 12 x 2 accumulators + 2 of B + a broadcast in 32 registers
#else
constexpr int TILE_ROWS = 6;  // 6 x 2 accumulators in 16 registers
#endif

// acc[i][j] = combine(acc[i][j], from's vector at row i, column j)
template <int MR, int NV, typename Combine>
inline void each_vector(vf (&acc)[MR][NV], const float* from, long ld, const Combine& combine) {
#pragma GCC unroll 16
  for (int i = 0; i < MR; i++)
#pragma GCC unroll 2
    for (int j = 0; j < NV; j++) acc[i][j] = combine(acc[i][j], load(from + i * ld + j * W));
}

// A test a tile, not a vector: what `e` points at is read before the first store.
template <int MR, int NV>
inline void finish_tile(vf (&acc)[MR][NV], float* c, long c_ld, const Epilogue& e, long row,
                        long column) {
  const auto sum = [](vf x, vf y) { return x + y; };
  const auto product = [](vf x, vf y) { return x * y; };
  if (e.bias) each_vector(acc, e.bias + column, 0, sum);
  if (e.factor) each_vector(acc, e.factor + row * e.factor_ld + column, e.factor_ld, product);
  if (e.residual) each_vector(acc, e.residual + row * e.residual_ld + column, e.residual_ld, sum);
  if (e.add) each_vector(acc, c, c_ld, sum);
#pragma GCC unroll 16
  for (int i = 0; i < MR; i++)
#pragma GCC unroll 2
    for (int j = 0; j < NV; j++) store(c + i * c_ld + j * W, acc[i][j]);
}

template <typename T, int MR, int NV>
void gemm_tile(long k, const T* a, long a_row, long a_k, const T* b, long b_ld, float* c, long c_ld,
               const Epilogue& e, long row, long column) {
  vf acc[MR][NV];
#pragma GCC unroll 16
  for (int i = 0; i < MR; i++)
#pragma GCC unroll 2
    for (int j = 0; j < NV; j++) acc[i][j] = vf{};
  for (long p = 0; p < k; p++) {
    decltype(load(b)) bv[NV];
#pragma GCC unroll 2
    for (int j = 0; j < NV; j++) bv[j] = load(b + p * b_ld + j * W);
    const T* ap = a + p * a_k;
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) {
      const auto av = splat(ap[i * a_row]);
#pragma GCC unroll 2
      for (int j = 0; j < NV; j++) acc[i][j] = multiply_add(av, bv[j], acc[i][j]);
    }
  }
  finish_tile<MR, NV>(acc, c, c_ld, e, row, column);
}

template <typename T>
using GemmTile = void (*)(long, const T*, long, long, const T*, long, float*, long, const Epilogue&,
                          long, long);

template <typename T, int NV>
struct GemmTiles {
  static constexpr GemmTile<T> table[12] = {
      gemm_tile<T, 1, NV>,  gemm_tile<T, 2, NV>,  gemm_tile<T, 3, NV>,
      gemm_tile<T, 4, NV>,  gemm_tile<T, 5, NV>,  gemm_tile<T, 6, NV>,
#if COMPFAST_WIDTH == 16 || defined(__aarch64__)
      gemm_tile<T, 7, NV>,  gemm_tile<T, 8, NV>,  gemm_tile<T, 9, NV>,
      gemm_tile<T, 10, NV>, gemm_tile<T, 11, NV>, gemm_tile<T, 12, NV>,
#endif
  };
};

template <typename T>
void gemm(long m, long n, long k, const T* a, long a_row, long a_k, const T* b, long b_ld, float* c,
          long c_ld, const Epilogue& e = Epilogue()) {
  const long tiles = (m + TILE_ROWS - 1) / TILE_ROWS;
  // A panel of B stays in the first cache while all rows of A pass by.
  for (long column = 0; column < n; column += 2 * W) {
    const GemmTile<T>* table = column + W < n ? GemmTiles<T, 2>::table : GemmTiles<T, 1>::table;
    for (long t = 0, row = 0; t < tiles; t++) {
      const long rows = (m - row + tiles - t - 1) / (tiles - t);  // as even as they come
      table[rows - 1](k, a + row * a_row, a_row, a_k, b + column, b_ld, c + row * c_ld + column,
                      c_ld, e, row, column);
      row += rows;
    }
  }
}

// C goes to a view whose neighbours belong to others: only n columns are written. The epilogue
// has no residual and no factor; scratch [m, n padded].
inline void gemm_exact(long m, long n, long k, const float* a, long a_row, long a_k, const float* b,
                       long b_ld, float* c, long c_ld, Epilogue e, float* scratch) {
  if (n % W == 0) {
    gemm(m, n, k, a, a_row, a_k, b, b_ld, c, c_ld, e);
    return;
  }
  const long wide = padded(n);
  const bool add = e.add;
  e.add = false;
  gemm(m, n, k, a, a_row, a_k, b, b_ld, scratch, wide, e);
  for (long i = 0; i < m; i++)
    for (long j = 0; j < n; j++) {
      float* to = c + i * c_ld + j;
      *to = add ? *to + scratch[i * wide + j] : scratch[i * wide + j];
    }
}

}  // namespace

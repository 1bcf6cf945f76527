// Products of which every element is a row of n floats, one a lane: lane_product keeps the lanes,
// lane_dots sums over them. Both read rows to the next multiple of W.
#pragma once

#include "simd.h"

namespace {

// Row (i, r) begins at at + i * step + r * inner.
struct LaneRows {
  const float* at;
  long step, inner;
};

constexpr int LANE_ROWS = 4, LANE_COLUMNS = 3;  // 12 accumulators + 3 + 1 in 16 registers

// C[i, j] (+)= sum over r of A[i, r] B[j, r], r = 0, 1, ... in one chain
template <int MI, int MJ>
void lane_product_tile(long inner, long n, const LaneRows& a, const LaneRows& b, float* c,
                       long c_step, long c_column, bool add) {
  for (long k = 0; k < n; k += W) {
    vf acc[MI][MJ];
#pragma GCC unroll 4
    for (int i = 0; i < MI; i++)
#pragma GCC unroll 3
      for (int j = 0; j < MJ; j++) acc[i][j] = add ? load(c + i * c_step + j * c_column + k) : vf{};
    const float *ar = a.at + k, *br = b.at + k;
    for (long r = 0; r < inner; r++, ar += a.inner, br += b.inner) {
      vf column[MJ];
#pragma GCC unroll 3
      for (int j = 0; j < MJ; j++) column[j] = load(br + j * b.step);
#pragma GCC unroll 4
      for (int i = 0; i < MI; i++) {
        const vf row = load(ar + i * a.step);
#pragma GCC unroll 3
        for (int j = 0; j < MJ; j++) acc[i][j] = fma(row, column[j], acc[i][j]);
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < MI; i++)
#pragma GCC unroll 3
      for (int j = 0; j < MJ; j++) store(c + i * c_step + j * c_column + k, acc[i][j]);
  }
}

// c[i * c_step + j * c_column] (+)= sum over k of A[i, k] B[j, k]
template <int MI, int MJ>
void lane_dots_tile(long, long n, const LaneRows& a, const LaneRows& b, float* c, long c_step,
                    long c_column, bool add) {
  vf acc[MJ][MI] = {};
  for (long k = 0; k < n; k += W) {
    vf column[MJ];
#pragma GCC unroll 3
    for (int j = 0; j < MJ; j++) column[j] = load(b.at + j * b.step + k);
#pragma GCC unroll 4
    for (int i = 0; i < MI; i++) {
      const vf row = load(a.at + i * a.step + k);
#pragma GCC unroll 3
      for (int j = 0; j < MJ; j++) acc[j][i] = fma(row, column[j], acc[j][i]);
    }
  }
#pragma GCC unroll 3
  for (int j = 0; j < MJ; j++) {
    const vf sums = lane_sums<MI>(acc[j]);
#pragma GCC unroll 4
    for (int i = 0; i < MI; i++) {
      float* to = c + i * c_step + j * c_column;
      *to = add ? *to + sums[i] : sums[i];
    }
  }
}

using LaneTile = void (*)(long, long, const LaneRows&, const LaneRows&, float*, long, long, bool);

constexpr LaneTile PRODUCT_TILES[LANE_ROWS][LANE_COLUMNS] = {
    {lane_product_tile<1, 1>, lane_product_tile<1, 2>, lane_product_tile<1, 3>},
    {lane_product_tile<2, 1>, lane_product_tile<2, 2>, lane_product_tile<2, 3>},
    {lane_product_tile<3, 1>, lane_product_tile<3, 2>, lane_product_tile<3, 3>},
    {lane_product_tile<4, 1>, lane_product_tile<4, 2>, lane_product_tile<4, 3>},
};
constexpr LaneTile DOTS_TILES[LANE_ROWS][LANE_COLUMNS] = {
    {lane_dots_tile<1, 1>, lane_dots_tile<1, 2>, lane_dots_tile<1, 3>},
    {lane_dots_tile<2, 1>, lane_dots_tile<2, 2>, lane_dots_tile<2, 3>},
    {lane_dots_tile<3, 1>, lane_dots_tile<3, 2>, lane_dots_tile<3, 3>},
    {lane_dots_tile<4, 1>, lane_dots_tile<4, 2>, lane_dots_tile<4, 3>},
};

// C of `rows` x `columns` elements in tiles as even as they come.
inline void lane_tiles(const LaneTile (&table)[LANE_ROWS][LANE_COLUMNS], long rows, long columns,
                       long inner, long n, const LaneRows& a, const LaneRows& b, float* c,
                       long c_step, long c_column, bool add) {
  const long down = (rows + LANE_ROWS - 1) / LANE_ROWS;
  const long across = (columns + LANE_COLUMNS - 1) / LANE_COLUMNS;
  for (long y = 0, i = 0; y < down; y++) {
    const long mi = (rows - i + down - y - 1) / (down - y);
    for (long x = 0, j = 0; x < across; x++) {
      const long mj = (columns - j + across - x - 1) / (across - x);
      table[mi - 1][mj - 1](inner, n, {a.at + i * a.step, a.step, a.inner},
                            {b.at + j * b.step, b.step, b.inner}, c + i * c_step + j * c_column,
                            c_step, c_column, add);
      j += mj;
    }
    i += mi;
  }
}

inline void lane_product(long rows, long columns, long inner, long n, const LaneRows& a,
                         const LaneRows& b, float* c, long c_step, long c_column, bool add) {
  lane_tiles(PRODUCT_TILES, rows, columns, inner, n, a, b, c, c_step, c_column, add);
}

inline void lane_dots(long rows, long columns, long n, const LaneRows& a, const LaneRows& b,
                      float* c, long c_step, long c_column, bool add) {
  lane_tiles(DOTS_TILES, rows, columns, 1, n, a, b, c, c_step, c_column, add);
}

}  // namespace

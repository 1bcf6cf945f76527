// Products whose elements are rows of n floats, one a lane, n of any size: rows are read and
// written to the next multiple of W. Many small ones of one size go in one call, a batch.
#pragma once

#include "simd.h"

namespace {

// Row or number (i, r) of a batch's member b is at at + i * step + r * inner + b * batch.
struct LaneRows {
  const float* at;
  long step, inner, batch;
};

// Element (i, j) of the result is at at + i * step + j * column + b * batch; so it is of `start`,
// which is added to the sum: nothing (null), the result itself, or what else there is.
struct LaneResult {
  float* at;
  long step, column, batch;
};
struct LaneStart {
  const float* at;
  long step, column, batch;
};

inline LaneStart nothing() { return {nullptr, 0, 0, 0}; }
inline LaneStart itself(const LaneResult& c) { return {c.at, c.step, c.column, c.batch}; }

struct LaneSizes {
  long batch, inner, n;
  float factor = 1.0f;  // of the sums in lane_dots and lane_splats
};

constexpr int LANE_ROWS = 4, LANE_COLUMNS = 3;  // 12 accumulators + 3 + 1 in 16 registers

// C[i, j] = start[i, j] + sum over r of A[i, r] B[j, r], r = 0, 1, ... in one chain
template <int MI, int MJ>
void lane_product_tile(const LaneSizes& s, LaneRows a, LaneRows b, LaneStart start, LaneResult c) {
  for (long m = 0; m < s.batch; m++) {
    for (long k = 0; k < s.n; k += W) {
      vf acc[MI][MJ];
#pragma GCC unroll 4
      for (int i = 0; i < MI; i++)
#pragma GCC unroll 3
        for (int j = 0; j < MJ; j++)
          acc[i][j] = start.at ? load(start.at + i * start.step + j * start.column + k) : vf{};
      const float *ar = a.at + k, *br = b.at + k;
      for (long r = 0; r < s.inner; r++, ar += a.inner, br += b.inner) {
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
        for (int j = 0; j < MJ; j++) store(c.at + i * c.step + j * c.column + k, acc[i][j]);
    }
    a.at += a.batch, b.at += b.batch, c.at += c.batch;
    if (start.at) start.at += start.batch;
  }
}

// The numbers c[i, j] = start[i, j] + factor x the sum over k of A[i, k] B[j, k]; r has no part.
template <int MI, int MJ>
void lane_dots_tile(const LaneSizes& s, LaneRows a, LaneRows b, LaneStart start, LaneResult c) {
  for (long m = 0; m < s.batch; m++) {
    vf acc[MJ][MI] = {};
    for (long k = 0; k < s.n; k += W) {
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
      const vf sums = lane_sums<MI>(acc[j]) * splat(s.factor);
#pragma GCC unroll 4
      for (int i = 0; i < MI; i++) {
        const float begun = start.at ? start.at[i * start.step + j * start.column] : 0.0f;
        c.at[i * c.step + j * c.column] = begun + sums[i];
      }
    }
    a.at += a.batch, b.at += b.batch, c.at += c.batch;
    if (start.at) start.at += start.batch;
  }
}

// NV vectors from k on of C[i] = start[i] + factor x the sum over r of x[i, r] B[r], x numbers.
template <int MI, int R, int NV>
inline void lane_splats_step(const LaneSizes& s, long k, const LaneRows& x, const LaneRows& b,
                             const LaneStart& start, const LaneResult& c) {
  vf acc[MI][NV] = {};
  const long count = R ? R : s.inner;
#pragma GCC unroll 4
  for (long r = 0; r < count; r++) {
    vf own[NV];
#pragma GCC unroll 2
    for (int v = 0; v < NV; v++) own[v] = load(b.at + r * b.inner + k + v * W);
#pragma GCC unroll 4
    for (int i = 0; i < MI; i++) {
      const vf number = splat(x.at[i * x.step + r * x.inner]);
#pragma GCC unroll 2
      for (int v = 0; v < NV; v++) acc[i][v] = fma(number, own[v], acc[i][v]);
    }
  }
  const vf factor = splat(s.factor);
#pragma GCC unroll 4
  for (int i = 0; i < MI; i++)
#pragma GCC unroll 2
    for (int v = 0; v < NV; v++) {
      const long at = k + v * W;
      store(c.at + i * c.step + at,
            start.at ? fma(acc[i][v], factor, load(start.at + i * start.step + at))
                     : acc[i][v] * factor);
    }
}

// R > 0 is s.inner, known when compiled: heads of few columns are nothing but such sums.
template <int MI, int R>
void lane_splats_tile(const LaneSizes& s, LaneRows x, LaneRows b, LaneStart start, LaneResult c) {
  for (long m = 0; m < s.batch; m++) {
    long k = 0;
    for (; k + W < s.n; k += 2 * W) lane_splats_step<MI, R, 2>(s, k, x, b, start, c);
    if (k < s.n) lane_splats_step<MI, R, 1>(s, k, x, b, start, c);
    x.at += x.batch, b.at += b.batch, c.at += c.batch;
    if (start.at) start.at += start.batch;
  }
}

using LaneTile = void (*)(const LaneSizes&, LaneRows, LaneRows, LaneStart, LaneResult);

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
constexpr LaneTile SPLATS_TILES[LANE_ROWS][3] = {
    {lane_splats_tile<1, 0>, lane_splats_tile<1, 2>, lane_splats_tile<1, 4>},
    {lane_splats_tile<2, 0>, lane_splats_tile<2, 2>, lane_splats_tile<2, 4>},
    {lane_splats_tile<3, 0>, lane_splats_tile<3, 2>, lane_splats_tile<3, 4>},
    {lane_splats_tile<4, 0>, lane_splats_tile<4, 2>, lane_splats_tile<4, 4>},
};

// The next of `left` tiles over `rest` rows: as even as they come.
inline long even_tile(long rest, long left) { return (rest + left - 1) / left; }

// Results of `rows` x `columns` elements.
inline void lane_tiles(const LaneTile (&table)[LANE_ROWS][LANE_COLUMNS], long rows, long columns,
                       const LaneSizes& s, const LaneRows& a, const LaneRows& b,
                       const LaneStart& start, const LaneResult& c) {
  const long down = (rows + LANE_ROWS - 1) / LANE_ROWS;
  const long across = (columns + LANE_COLUMNS - 1) / LANE_COLUMNS;
  for (long y = 0, i = 0; y < down; y++) {
    const long mi = even_tile(rows - i, down - y);
    for (long x = 0, j = 0; x < across; x++) {
      const long mj = even_tile(columns - j, across - x);
      LaneRows own = a, other = b;
      LaneStart from = start;
      LaneResult to = c;
      own.at += i * a.step;
      other.at += j * b.step;
      if (start.at) from.at += i * start.step + j * start.column;
      to.at += i * c.step + j * c.column;
      table[mi - 1][mj - 1](s, own, other, from, to);
      j += mj;
    }
    i += mi;
  }
}

inline void lane_product(long rows, long columns, const LaneSizes& s, const LaneRows& a,
                         const LaneRows& b, const LaneStart& start, const LaneResult& c) {
  lane_tiles(PRODUCT_TILES, rows, columns, s, a, b, start, c);
}

inline void lane_dots(long rows, long columns, const LaneSizes& s, const LaneRows& a,
                      const LaneRows& b, const LaneStart& start, const LaneResult& c) {
  lane_tiles(DOTS_TILES, rows, columns, s, a, b, start, c);
}

inline void lane_splats(long rows, const LaneSizes& s, const LaneRows& x, const LaneRows& b,
                        const LaneStart& start, const LaneResult& c) {
  const long tiles = (rows + LANE_ROWS - 1) / LANE_ROWS;
  for (long y = 0, i = 0; y < tiles; y++) {
    const long mi = even_tile(rows - i, tiles - y);
    LaneRows own = x;
    LaneStart from = start;
    LaneResult to = c;
    own.at += i * x.step;
    if (start.at) from.at += i * start.step;
    to.at += i * c.step;
    SPLATS_TILES[mi - 1][s.inner == 2 ? 1 : s.inner == 4 ? 2 : 0](s, own, b, from, to);
    i += mi;
  }
}

}  // namespace

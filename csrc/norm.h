// y = (x - mean) / sqrt(var + eps) * g + b over the last axis (Ba et al. 2016), fp32.
// x: [rows, d] with row stride x_ld (a multiple of 16 past d, zero there).
#pragma once

#include "simd.h"

namespace {

// The row loops, with the number of vectors a row known to the compiler (0: it is not), over R rows
// at a time, whose sums are taken side by side: the same bits for every R.
template <int NV, int R>
inline void norm_forward_rows(long d, float epsilon, const float* x, long x_ld, const float* g,
                              const float* b, float* y, long y_ld, float* saved) {
  const long vectors = NV ? NV : (d + W - 1) / W;
  const vi tail = first_lanes(d - (vectors - 1) * W);
  const vf inverse = splat(1.0f / (float)d);
  vf part[R];
  for (int i = 0; i < R; i++) {
    vf sum = load(x + i * x_ld);
    for (long j = 1; j < vectors; j++) sum += load(x + i * x_ld + j * W);
    part[i] = sum;
  }
  const vf mean = lane_sums(part) * inverse;
  for (int i = 0; i < R; i++) {
    const vf own = splat(mean[i]);
    vf squares = vf{};
    for (long j = 0; j < vectors - 1; j++) {
      const vf c = load(x + i * x_ld + j * W) - own;
      squares = fma(c, c, squares);
    }
    const vf last = select(tail, load(x + i * x_ld + (vectors - 1) * W) - own, vf{});
    part[i] = fma(last, last, squares);
  }
  const vf rstd = splat(1.0f) / vsqrt(fma(lane_sums(part), inverse, splat(epsilon)));
  for (int i = 0; i < R; i++) {
    saved[2 * i] = mean[i];
    saved[2 * i + 1] = rstd[i];
    for (long j = 0; j < vectors; j++) {
      const vf xhat = (load(x + i * x_ld + j * W) - splat(mean[i])) * splat(rstd[i]);
      store(y + i * y_ld + j * W, fma(xhat, load(g + j * W), load(b + j * W)));
    }
  }
}

// Running sums over rows of dy xhat and dy, a vector a column block.
template <int NV>
struct NormSums {
  vf g[NV] = {}, b[NV] = {};
};

// dx (+)= rstd (dy g - mean(dy g) - xhat mean(dy g xhat)); `sums` go on where NV is known.
template <int NV, int R>
inline void norm_backward_rows(long d, const float* x, long x_ld, const float* g, const float* dy,
                               long dy_ld, const float* saved, float* dx, long dx_ld, bool add,
                               NormSums<NV ? NV : 1>& sums) {
  const long vectors = NV ? NV : (d + W - 1) / W;
  const vi tail = first_lanes(d - (vectors - 1) * W);
  const vf inverse = splat(1.0f / (float)d);
  vf part1[R], part2[R];
  for (int i = 0; i < R; i++) {
    const vf mean = splat(saved[2 * i]), rstd = splat(saved[2 * i + 1]);
    vf s1 = vf{}, s2 = vf{};
    for (long j = 0; j < vectors; j++) {
      const vf grad = load(dy + i * dy_ld + j * W), scaled = grad * load(g + j * W);
      const vf xhat = (load(x + i * x_ld + j * W) - mean) * rstd;
      s1 += scaled;
      s2 = fma(scaled, xhat, s2);
      if constexpr (NV > 0) {
        sums.g[j] = fma(grad, xhat, sums.g[j]);
        sums.b[j] += grad;
      }
    }
    part1[i] = s1;
    part2[i] = s2;
  }
  const vf mean1 = lane_sums(part1) * inverse, mean2 = lane_sums(part2) * inverse;
  for (int i = 0; i < R; i++) {
    const vf mean = splat(saved[2 * i]), rstd = splat(saved[2 * i + 1]);
    const vf m1 = splat(mean1[i]), m2 = splat(mean2[i]);
    float* to = dx + i * dx_ld;
    for (long j = 0; j < vectors; j++) {
      const vf xhat = (load(x + i * x_ld + j * W) - mean) * rstd;
      const vf scaled = load(dy + i * dy_ld + j * W) * load(g + j * W);
      vf grad = (scaled - m1 - xhat * m2) * rstd;
      if (j == vectors - 1) grad = select(tail, grad, vf{});
      if (add) grad += load(to + j * W);
      store(to + j * W, grad);
    }
  }
}

// Rows at a time: as many sums as a vector has lanes, no more than registers allow.
template <int NV>
constexpr int norm_rows = NV == 0 ? 1
                          : W < 8 ? W
                                  : 8;

template <int NV>
void norm_forward_all(long rows, long d, float epsilon, const float* x, long x_ld, const float* g,
                      const float* b, float* y, long y_ld, float* saved) {
  constexpr int R = norm_rows<NV>;
  long r = 0;
  for (; r + R <= rows; r += R)
    norm_forward_rows<NV, R>(d, epsilon, x + r * x_ld, x_ld, g, b, y + r * y_ld, y_ld,
                             saved + 2 * r);
  for (; r < rows; r++)
    norm_forward_rows<NV, 1>(d, epsilon, x + r * x_ld, x_ld, g, b, y + r * y_ld, y_ld,
                             saved + 2 * r);
}

template <int NV>
void norm_backward_all(long rows, long d, const float* x, long x_ld, const float* g,
                       const float* dy, long dy_ld, const float* saved, float* dx, long dx_ld,
                       bool add, float* dg, float* db) {
  constexpr int R = norm_rows<NV>;
  NormSums<NV ? NV : 1> sums;
  long r = 0;
  for (; r + R <= rows; r += R)
    norm_backward_rows<NV, R>(d, x + r * x_ld, x_ld, g, dy + r * dy_ld, dy_ld, saved + 2 * r,
                              dx + r * dx_ld, dx_ld, add, sums);
  for (; r < rows; r++)
    norm_backward_rows<NV, 1>(d, x + r * x_ld, x_ld, g, dy + r * dy_ld, dy_ld, saved + 2 * r,
                              dx + r * dx_ld, dx_ld, add, sums);
  for (int j = 0; j < NV; j++) {
    store(dg + j * W, load(dg + j * W) + sums.g[j]);
    store(db + j * W, load(db + j * W) + sums.b[j]);
  }
}

inline void norm_forward(long rows, long d, float epsilon, const float* x, long x_ld,
                         const float* g, const float* b, float* y, long y_ld, float* saved) {
  const long vectors = (d + W - 1) / W;
  auto* run = vectors == 2   ? norm_forward_all<2>
              : vectors == 4 ? norm_forward_all<4>
              : vectors == 8 ? norm_forward_all<8>
                             : norm_forward_all<0>;
  run(rows, d, epsilon, x, x_ld, g, b, y, y_ld, saved);
}

// dg += sum over rows of dy xhat; db += sum of dy. Columns outside: sums stay in registers.
template <int NV>
void norm_column_sums(long rows, const float* x, long x_ld, const float* dy, long dy_ld,
                      const float* saved, float* dg, float* db) {
  vf g[NV] = {}, b[NV] = {};
  for (long r = 0; r < rows; r++) {
    const vf mean = splat(saved[2 * r]), rstd = splat(saved[2 * r + 1]);
#pragma GCC unroll 4
    for (int j = 0; j < NV; j++) {
      const vf grad = load(dy + r * dy_ld + j * W);
      g[j] = fma(grad, (load(x + r * x_ld + j * W) - mean) * rstd, g[j]);
      b[j] += grad;
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < NV; j++) {
    store(dg + j * W, load(dg + j * W) + g[j]);
    store(db + j * W, load(db + j * W) + b[j]);
  }
}

inline void norm_backward(long rows, long d, const float* x, long x_ld, const float* g,
                          const float* dy, long dy_ld, const float* saved, float* dx, long dx_ld,
                          bool add, float* dg, float* db) {
  const long vectors = (d + W - 1) / W;
  auto* known = vectors == 2   ? norm_backward_all<2>
                : vectors == 4 ? norm_backward_all<4>
                : vectors == 8 ? norm_backward_all<8>
                               : nullptr;
  if (known) {
    known(rows, d, x, x_ld, g, dy, dy_ld, saved, dx, dx_ld, add, dg, db);
    return;
  }
  long column = 0;
  for (; column + 2 * W <= vectors * W; column += 2 * W)
    norm_column_sums<2>(rows, x + column, x_ld, dy + column, dy_ld, saved, dg + column,
                        db + column);
  if (column < vectors * W)
    norm_column_sums<1>(rows, x + column, x_ld, dy + column, dy_ld, saved, dg + column,
                        db + column);
  norm_backward_all<0>(rows, d, x, x_ld, g, dy, dy_ld, saved, dx, dx_ld, add, dg, db);
}

}  // namespace

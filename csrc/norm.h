// y = (x - mean) / sqrt(var + eps) * g + b over the last axis (Ba et al. 2016), fp32.
// x: [rows, d] with row stride x_ld (a multiple of 16 past d, zero there).
#pragma once

#include "simd.h"

namespace {

// The row loops, with the number of vectors a row known to the compiler (0: it is not).
template <int NV>
void norm_forward_rows(long rows, long d, float epsilon, const float* x, long x_ld, const float* g,
                       const float* b, float* y, long y_ld, float* saved) {
  const long vectors = NV ? NV : (d + W - 1) / W;
  const vi tail = first_lanes(d - (vectors - 1) * W);
  const vf inverse = splat(1.0f / (float)d);
  for (long r = 0; r < rows; r++) {
    const float* xr = x + r * x_ld;
    float* yr = y + r * y_ld;
    vf sum = vf{};
    for (long j = 0; j < vectors; j++) sum += load(xr + j * W);
    const vf mean = sum_lanes(sum) * inverse;
    vf squares = vf{};
    for (long j = 0; j < vectors - 1; j++) {
      const vf c = load(xr + j * W) - mean;
      squares = fma(c, c, squares);
    }
    const vf last = select(tail, load(xr + (vectors - 1) * W) - mean, vf{});
    squares = fma(last, last, squares);
    const vf variance = sum_lanes(squares) * inverse;
    const float rstd = 1.0f / __builtin_sqrtf(variance[0] + epsilon);
    saved[2 * r] = mean[0];
    saved[2 * r + 1] = rstd;
    for (long j = 0; j < vectors; j++) {
      const vf xhat = (load(xr + j * W) - mean) * splat(rstd);
      store(yr + j * W, fma(xhat, load(g + j * W), load(b + j * W)));
    }
  }
}

// dx (+)= rstd (dy g - mean(dy g) - xhat mean(dy g xhat))
template <int NV>
void norm_backward_rows(long rows, long d, const float* x, long x_ld, const float* g,
                        const float* dy, long dy_ld, const float* saved, float* dx, long dx_ld,
                        bool add) {
  const long vectors = NV ? NV : (d + W - 1) / W;
  const vi tail = first_lanes(d - (vectors - 1) * W);
  const vf inverse = splat(1.0f / (float)d);
  for (long r = 0; r < rows; r++) {
    const float* xr = x + r * x_ld;
    const float* dyr = dy + r * dy_ld;
    float* dxr = dx + r * dx_ld;
    const vf mean = splat(saved[2 * r]), rstd = splat(saved[2 * r + 1]);
    vf s1 = vf{}, s2 = vf{};
    for (long j = 0; j < vectors; j++) {
      const vf scaled = load(dyr + j * W) * load(g + j * W);
      s1 += scaled;
      s2 = fma(scaled, (load(xr + j * W) - mean) * rstd, s2);
    }
    const vf m1 = sum_lanes(s1) * inverse, m2 = sum_lanes(s2) * inverse;
    for (long j = 0; j < vectors; j++) {
      const vf xhat = (load(xr + j * W) - mean) * rstd;
      const vf scaled = load(dyr + j * W) * load(g + j * W);
      vf grad = (scaled - m1 - xhat * m2) * rstd;
      if (j == vectors - 1) grad = select(tail, grad, vf{});
      if (add) grad += load(dxr + j * W);
      store(dxr + j * W, grad);
    }
  }
}

inline void norm_forward(long rows, long d, float epsilon, const float* x, long x_ld,
                         const float* g, const float* b, float* y, long y_ld, float* saved) {
  const long vectors = (d + W - 1) / W;
  auto* run = vectors == 2   ? norm_forward_rows<2>
              : vectors == 4 ? norm_forward_rows<4>
              : vectors == 8 ? norm_forward_rows<8>
                             : norm_forward_rows<0>;
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
  long column = 0;
  for (; column + 2 * W <= vectors * W; column += 2 * W)
    norm_column_sums<2>(rows, x + column, x_ld, dy + column, dy_ld, saved, dg + column,
                        db + column);
  if (column < vectors * W)
    norm_column_sums<1>(rows, x + column, x_ld, dy + column, dy_ld, saved, dg + column,
                        db + column);
  auto* run = vectors == 2   ? norm_backward_rows<2>
              : vectors == 4 ? norm_backward_rows<4>
              : vectors == 8 ? norm_backward_rows<8>
                             : norm_backward_rows<0>;
  run(rows, d, x, x_ld, g, dy, dy_ld, saved, dx, dx_ld, add);
}

}  // namespace

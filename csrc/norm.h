// y = (x - mean) / sqrt(var + eps) * g + b over the last axis (Ba et al. 2016), fp32.
// x: [rows, d] with row stride x_ld (a multiple of 16 past d, zero there).
#pragma once

#include "simd.h"

namespace {

inline void norm_forward(long rows, long d, float epsilon, const float* x, long x_ld,
                         const float* g, const float* b, float* y, long y_ld, float* saved) {
  const long vectors = (d + W - 1) / W;
  const vi tail = first_lanes(d - (vectors - 1) * W);
  const float inverse = 1.0f / (float)d;
  for (long r = 0; r < rows; r++) {
    const float* xr = x + r * x_ld;
    float* yr = y + r * y_ld;
    vf sum = vf{};
    for (long j = 0; j < vectors; j++) sum += load(xr + j * W);
    const vf mean = splat(hsum(sum) * inverse);
    vf squares = vf{};
    for (long j = 0; j < vectors - 1; j++) {
      const vf c = load(xr + j * W) - mean;
      squares = fma(c, c, squares);
    }
    const vf last = select(tail, load(xr + (vectors - 1) * W) - mean, vf{});
    squares = fma(last, last, squares);
    const float variance = hsum(squares) * inverse;
    const float rstd = 1.0f / __builtin_sqrtf(variance + epsilon);
    saved[2 * r] = mean[0];
    saved[2 * r + 1] = rstd;
    for (long j = 0; j < vectors; j++) {
      const vf xhat = (load(xr + j * W) - mean) * splat(rstd);
      store(yr + j * W, fma(xhat, load(g + j * W), load(b + j * W)));
    }
  }
}

// dx (+)= rstd (dy g - mean(dy g) - xhat mean(dy g xhat)); dg += dy xhat; db += dy.
inline void norm_backward(long rows, long d, const float* x, long x_ld, const float* g,
                          const float* dy, long dy_ld, const float* saved, float* dx, long dx_ld,
                          bool add, float* dg, float* db) {
  const long vectors = (d + W - 1) / W;
  const vi tail = first_lanes(d - (vectors - 1) * W);
  const float inverse = 1.0f / (float)d;
  for (long r = 0; r < rows; r++) {
    const float* xr = x + r * x_ld;
    const float* dyr = dy + r * dy_ld;
    float* dxr = dx + r * dx_ld;
    const vf mean = splat(saved[2 * r]), rstd = splat(saved[2 * r + 1]);
    vf s1 = vf{}, s2 = vf{};
    for (long j = 0; j < vectors; j++) {
      const vf xhat = (load(xr + j * W) - mean) * rstd;
      const vf grad = load(dyr + j * W);
      const vf scaled = grad * load(g + j * W);
      s1 += scaled;
      s2 = fma(scaled, xhat, s2);
      store(dg + j * W, fma(grad, xhat, load(dg + j * W)));
      store(db + j * W, load(db + j * W) + grad);
    }
    const vf m1 = splat(hsum(s1) * inverse), m2 = splat(hsum(s2) * inverse);
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

}  // namespace

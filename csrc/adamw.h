// Gradient norm, clipping and AdamW (Loshchilov & Hutter 2019) over one flat vector, fp32:
// p *= 1 - lr wd; m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2;
// p -= lr / c1 * m / (sqrt(v) / sqrt(c2) + eps), c_i the bias corrections.
#pragma once

#include "simd.h"

namespace {

inline float gradient_norm(const float* g, long n) {
  vf sums[4] = {};
  long i = 0;
  for (; i + 4 * W <= n; i += 4 * W)
    for (int j = 0; j < 4; j++) {
      const vf x = load(g + i + j * W);
      sums[j] = fma(x, x, sums[j]);
    }
  for (; i < n; i += W) {
    const vf x = load(g + i);
    sums[0] = fma(x, x, sums[0]);
  }
  return __builtin_sqrtf(sum_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]))[0]);
}

struct AdamW {
  float clip;                             // multiplies the gradient
  float keep;                             // 1 - lr wd
  float step_size;                        // lr / c1
  float correction;                       // 1 / sqrt(c2)
  float beta1, rest1, beta2, rest2, eps;  // rest = 1 - beta, rounded once from double
};

inline void adamw(const AdamW& a, long n, const float* g, float* p, float* m, float* v) {
  const vf clip = splat(a.clip), keep = splat(a.keep), step = splat(-a.step_size);
  const vf correction = splat(a.correction), eps = splat(a.eps);
  const vf beta1 = splat(a.beta1), beta2 = splat(a.beta2);
  const vf rest1 = splat(a.rest1), rest2 = splat(a.rest2);
  for (long i = 0; i < n; i += W) {
    const vf grad = load(g + i) * clip;
    const vf mi = fma(beta1, load(m + i), rest1 * grad);
    const vf vi_ = fma(beta2, load(v + i), rest2 * grad * grad);
    const vf denominator = fma(vsqrt(vi_), correction, eps);
    store(m + i, mi);
    store(v + i, vi_);
    store(p + i, fma(step, mi / denominator, load(p + i) * keep));
  }
}

}  // namespace

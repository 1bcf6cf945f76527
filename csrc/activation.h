// y = act(x) and act'(x) together, in place: x becomes y, the derivative goes to `slope`.
#pragma once

#include "simd.h"

namespace {

enum Activation : int32_t { IDENTITY = 0, RELU = 1, GELU = 2, GELU_TANH = 3 };

inline void relu(vf x, vf& y, vf& slope) {
  vi on = x > vf{};
  y = select(on, x, vf{});
  slope = select(on, splat(1.0f), vf{});
  vi nan = x != x;
  y = select(nan, x, y);
}

// Exact GELU: x Phi(x), Phi(-a) = Q(a) exp(-a^2/2) for a >= 0, and Q is a polynomial in
// t = a / 2.75 - 1 fitted on [0, 5.5] (error of Phi below 1e-7; past 5.5 Phi(-a) < 2e-8).
constexpr int GELU_DEGREE = 12;
constexpr float GELU_Q[GELU_DEGREE + 1] = {
    1.307247591e-01f,  -1.084829269e-01f, 8.410661382e-02f,  -6.154714075e-02f, 4.224720502e-02f,
    -2.885229748e-02f, 2.054252993e-02f,  -5.694933446e-03f, 5.656620195e-03f,  -1.447916354e-02f,
    -3.760970741e-03f, 4.297720014e-03f,  5.724417701e-03f};

inline void gelu(vf x, vf& y, vf& slope) {
  const vf e = vexp(x * x * splat(-0.5f));
  const vf a = vmin(splat(5.5f), magnitude(x));
  const vf t = fma(a, splat(1.0f / 2.75f), splat(-1.0f));
  vf q = splat(GELU_Q[GELU_DEGREE]);
#pragma GCC unroll 16
  for (int i = GELU_DEGREE - 1; i >= 0; i--) q = fma(q, t, splat(GELU_Q[i]));
  const vf lower = q * e;  // Phi(-|x|)
  const vf phi = x < vf{} ? lower : splat(1.0f) - lower;
  y = x * phi;
  slope = fma(x * e, splat(0.398942280f), phi);
}

// 0.5 x (1 + tanh(u)) = x / (1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3)
inline void gelu_tanh(vf x, vf& y, vf& slope) {
  const vf one = splat(1.0f);
  const vf x2 = x * x;
  const vf two_u = x * splat(1.59576912f) * fma(x2, splat(0.044715f), one);
  const vf two_du = splat(1.59576912f) * fma(x2, splat(0.134145f), one);
  const vf s = one / (one + vexp(-two_u));
  y = x * s;
  slope = fma(y * (one - s), two_du, s);
}

using Pointwise = void (*)(vf x, vf& y, vf& slope);

template <Pointwise FUNCTION>
void activate_with(float* x, float* slope, long count) {
  for (long i = 0; i < count; i += W) {
    vf y, d;
    FUNCTION(load(x + i), y, d);
    store(x + i, y);
    store(slope + i, d);
  }
}

// x, slope: [rows, ld], all ld columns.
inline void activate(int32_t kind, float* x, float* slope, long count) {
  if (kind == RELU)
    activate_with<relu>(x, slope, count);
  else if (kind == GELU)
    activate_with<gelu>(x, slope, count);
  else
    activate_with<gelu_tanh>(x, slope, count);
}

}  // namespace

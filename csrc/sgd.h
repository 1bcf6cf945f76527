// SGD with momentum as torch.optim.SGD has it (dampening 0), and decoupled weight decay, over one
// flat vector, fp32: p *= 1 - lr wd; b = mu b + g; p -= lr b, or lr (g + mu b) with Nesterov.
// A buffer of zeros gives the first step's b = g. Without momentum b stays as it is.
#pragma once

#include "simd.h"

namespace {

struct Sgd {
  float clip;       // multiplies the gradient
  float keep;       // 1 - lr wd
  float step_size;  // lr
  float momentum;
  bool nesterov;
};

inline void sgd(const Sgd& a, long n, const float* g, float* p, float* b) {
  const vf clip = splat(a.clip), keep = splat(a.keep), step = splat(-a.step_size);
  const vf momentum = splat(a.momentum);
  for (long i = 0; i < n; i += W) {
    vf move = load(g + i) * clip;
    if (a.momentum != 0.0f) {
      const vf buffer = fma(momentum, load(b + i), move);
      store(b + i, buffer);
      move = a.nesterov ? fma(momentum, buffer, move) : buffer;
    }
    store(p + i, fma(step, move, load(p + i) * keep));
  }
}

}  // namespace

// loss = log(1 + exp(z)) - target z a row of one logit; dz = (sigmoid(z) - target) / count.
// d_logits: a whole row of vectors, whose other columns get gradient 0.
#pragma once

#include "fixedmath.h"
#include "simd.h"

namespace {

inline double logistic_loss(long ld, float z, int32_t target, float inverse_count, float* dz) {
  const float size = z < 0 ? -z : z;
  const float small = vexp(splat(-size))[0];  // in (0, 1]
  const float near = 1.0f / (1.0f + small);   // sigmoid(|z|)
  const float sigmoid = z < 0 ? small * near : near;
  for (long j = 0; j < ld; j += W) store(dz + j, vf{});
  dz[0] = (sigmoid - (float)target) * inverse_count;
  if (z - z != 0.0f) return (double)(z - z);  // NaN or infinite; fixed_log takes neither
  const double above = z > 0 ? (double)z : 0.0;
  return above + compfast::fixed_log(1.0 + (double)small) - (double)target * (double)z;
}

}  // namespace

// loss = log sum exp(z) - z[target] a row; dz = (softmax(z) - onehot) / count.
// logits, d_logits: [rows, ld]; columns past the vocabulary get gradient 0.
#pragma once

#include "fixedmath.h"
#include "simd.h"

namespace {

inline double cross_entropy(long vocabulary, const float* z, int32_t target, float inverse_count,
                            float* dz) {
  const float negative = -__builtin_inff();
  vf top = splat(negative);
  for (long j = 0; j < vocabulary; j += W)
    top = vmax(top, select(first_lanes(vocabulary - j), load(z + j), splat(negative)));
  const float best = max_lanes(top)[0];
  vf sum = vf{};
  for (long j = 0; j < vocabulary; j += W) {
    const vf e = select(first_lanes(vocabulary - j), vexp(load(z + j) - splat(best)), vf{});
    sum += e;
    store(dz + j, e);
  }
  const float total = sum_lanes(sum)[0];
  const vf factor = splat(inverse_count / total);
  for (long j = 0; j < vocabulary; j += W) store(dz + j, load(dz + j) * factor);
  dz[target] -= inverse_count;
  if (total != total) return (double)total;  // a logit is NaN or infinite; fixed_log takes neither
  // total >= 1: the largest logit contributes exp(0)
  return (double)best + -compfast::fixed_log(1.0 / (double)total) - (double)z[target];
}

}  // namespace

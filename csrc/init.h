// Initial weights from the streams: compfast/init.py, bit for bit.
#pragma once

#include "fixedmath.h"
#include "philox.h"

namespace compfast {

// out[e] = float(std * z_e), z the normals (Box-Muller, words 2j and 2j+1) of stream
// (seed, INIT, tensor, 0).
static inline void fill_normal(uint64_t seed, uint32_t tensor, double std, int64_t count,
                               float* out) {
  for (int64_t i = 0; i < count; i += 4) {
    const Block block = philox({{(uint32_t)(i / 4), tensor, INIT, 0}}, seed);
    for (int pair = 0; pair < 2; pair++) {
      const double u1 = ((double)block.word[2 * pair] + 0.5) * 0x1p-32;
      const double u2 = ((double)block.word[2 * pair + 1] + 0.5) * 0x1p-32;
      const double r = __builtin_sqrt(-2.0 * fixed_log(u1));
      double sine, cosine;
      fixed_sincos_turn(u2, &sine, &cosine);
      const int64_t e = i + 2 * pair;
      if (e < count) out[e] = (float)(std * (r * cosine));
      if (e + 1 < count) out[e + 1] = (float)(std * (r * sine));
    }
  }
}

}  // namespace compfast

// Initial weights from the streams: compfast/models/init.py, bit for bit.
#pragma once

#include "fixedmath.h"
#include "philox.h"

namespace compfast {

// out[e] = float(std * z_e), z the normals (Box-Muller, words 2j and 2j+1) of stream
// (seed, INIT, tensor, 0); e counts over [rows, columns], whose rows stand `ld` floats apart.
static inline void fill_normal(uint64_t seed, uint32_t tensor, double std, int64_t rows,
                               int64_t columns, int64_t ld, float* out) {
  const int64_t count = rows * columns;
  int64_t column = 0;
  const auto put = [&](double z) {
    out[column] = (float)(std * z);
    if (++column == columns) column = 0, out += ld;
  };
  for (int64_t i = 0; i < count; i += 4) {
    const Block block = philox({{(uint32_t)(i / 4), tensor, INIT, 0}}, seed);
    for (int64_t pair = 0; pair < 2 && i + 2 * pair < count; pair++) {
      const double u1 = ((double)block.word[2 * pair] + 0.5) * 0x1p-32;
      const double u2 = ((double)block.word[2 * pair + 1] + 0.5) * 0x1p-32;
      const double r = __builtin_sqrt(-2.0 * fixed_log(u1));
      double sine, cosine;
      fixed_sincos_turn(u2, &sine, &cosine);
      put(r * cosine);
      if (i + 2 * pair + 1 < count) put(r * sine);
    }
  }
}

}  // namespace compfast

// loss = sum over columns of (z - y)^2 a row; dz = 2 (z - y) / count.
// d_outputs: whole rows of vectors, whose other columns get gradient 0.
#pragma once

#include "simd.h"

namespace {

inline double squared_error(long width, const float* z, const float* y, float inverse_count,
                            float* dz) {
  for (long j = 0; j < padded(width); j += W) store(dz + j, vf{});
  double sum = 0;
  for (long j = 0; j < width; j++) {
    const float apart = z[j] - y[j];
    sum += (double)apart * (double)apart;
    dz[j] = 2.0f * apart * inverse_count;
  }
  return sum;
}

}  // namespace

// What the entry points of op_table.h share: rows with and without padding, in scratch memory.
#pragma once

#include "op_table.h"
#include "simd.h"

namespace {
namespace ops {

using namespace compfast;

struct Scratch {
  float* next;
  float* take(long count) {
    float* p = next;
    next += padded(count);
    return p;
  }
};

inline void pad_rows(long rows, long width, const float* x, float* to) {
  const long ld = padded(width);
  for (long r = 0; r < rows; r++) {
    std::memcpy(to + r * ld, x + r * width, width * sizeof(float));
    std::memset(to + r * ld + width, 0, (ld - width) * sizeof(float));
  }
}

// x [rows, width] as [rows, padded(width)], zero padded: itself or a copy.
inline const float* with_padding(long rows, long width, const float* x, Scratch& s) {
  if (padded(width) == width) return x;
  float* to = s.take(rows * padded(width));
  pad_rows(rows, width, x, to);
  return to;
}

// Where a kernel may write whole padded rows of y, and the way back.
inline float* room(long rows, long width, float* y, Scratch& s) {
  return padded(width) == width ? y : s.take(rows * padded(width));
}

inline void without_padding(long rows, long width, const float* from, float* y) {
  if (from == y) return;
  for (long r = 0; r < rows; r++)
    std::memcpy(y + r * width, from + r * padded(width), width * sizeof(float));
}

inline void clear(float* x, long count) { std::memset(x, 0, count * sizeof(float)); }

}  // namespace ops
}  // namespace

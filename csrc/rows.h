// What copies rows into a network's buffers: the task's vectors, and the last rows of a sequence.
#pragma once

#include "plan.h"
#include "simd.h"

namespace {

// x [n, T, width] of the task into padded rows, whose other columns stay zero; so does the blank
// token.
inline void vectors_forward(const compfast::OpRecord& op, long n, const float* x, float* values) {
  const long width = op.out.width, ld = op.out.ld;
  float* to = values + op.out.value;
  for (long r = 0; r < n * op.out.rows; r++) {
    std::memcpy(to + r * ld, x + r * width, width * sizeof(float));
    std::memset(to + r * ld + width, 0, (ld - width) * sizeof(float));
  }
  if (op.blank < 0) return;
  for (long s = 1; s <= n; s++)
    std::memset(to + (s * op.out.rows - 1 - op.blank) * ld, 0, width * sizeof(float));
}

inline void select_forward(const compfast::OpRecord& op, long n, float* values) {
  const compfast::ViewRecord& x = op.in[0];
  const long rows = op.out.rows, ld = op.out.ld, skip = (long)(x.rows - rows) * x.ld;
  for (long s = 0; s < n; s++)
    std::memcpy(values + op.out.value + s * rows * ld, values + x.value + s * x.rows * x.ld + skip,
                rows * ld * sizeof(float));
}

inline void select_backward(const compfast::OpRecord& op, long n, float* values) {
  const compfast::ViewRecord& x = op.in[0];
  const long rows = op.out.rows, ld = op.out.ld, skip = (long)(x.rows - rows) * x.ld;
  for (long s = 0; s < n; s++) {
    const float* dy = values + op.out.grad + s * rows * ld;
    float* dx = values + x.grad + s * x.rows * x.ld + skip;
    for (long i = 0; i < rows * ld; i += W) store(dx + i, load(dx + i) + load(dy + i));
  }
}

}  // namespace

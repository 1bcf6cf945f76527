// y[s] = act(w[s] x[s]): w [hidden, columns] is a row of a buffer, one matrix a sequence, and x
// the first numbers of one of the task's vectors. x is data: only w has a gradient,
// dw[s, h, c] = dz[s, h] x[s, c].
#pragma once

#include "activation.h"
#include "plan.h"
#include "simd.h"

namespace {

// The query of sequence s of vectors [n, T, width]
inline const float* query_of(const compfast::OpRecord& op, const compfast::Ports& ports, long s,
                             const float* vectors) {
  return vectors + ((s + 1) * ports.positions - 1 - op.query) * (long)ports.width;
}

// x [columns] with zeros up to whole vectors
inline void copy_query(const compfast::OpRecord& op, const float* from, float* x) {
  std::memcpy(x, from, op.columns * sizeof(float));
  std::memset(x + op.columns, 0, (padded(op.columns) - op.columns) * sizeof(float));
}

// Sum of w x; lanes past the row belong to the next one.
inline float row_product(const float* w, const float* x, long columns) {
  vf sum = {};
  for (long c = 0; c < columns; c += W)
    sum = fma(select(first_lanes(columns - c), load(w + c), vf{}), load(x + c), sum);
  return sum_lanes(sum)[0];
}

// scratch [columns padded]
inline void generated_forward(const compfast::OpRecord& op, const compfast::Ports& ports, long n,
                              const float* vectors, float* values, float* scratch) {
  const compfast::ViewRecord& w = op.in[0];
  for (long s = 0; s < n; s++) {
    copy_query(op, query_of(op, ports, s, vectors), scratch);
    const float* own = values + w.value + s * w.ld;
    float* y = values + op.out.value + s * op.out.ld;
    for (long h = 0; h < op.out.width; h++)
      y[h] = row_product(own + h * op.columns, scratch, op.columns);
    for (long h = op.out.width; h < op.out.ld; h++) y[h] = 0.0f;
  }
  if (op.activation != IDENTITY)
    activate(op.activation, values + op.out.value, values + op.slope, n * op.out.ld);
}

inline void generated_backward(const compfast::OpRecord& op, const compfast::Ports& ports, long n,
                               const float* vectors, float* values, float* scratch) {
  const compfast::ViewRecord& w = op.in[0];
  for (long s = 0; s < n; s++) {
    copy_query(op, query_of(op, ports, s, vectors), scratch);
    const float* dy = values + op.out.grad + s * op.out.ld;
    const float* slope = values + op.slope + s * op.out.ld;
    float* own = values + w.grad + s * w.ld;
    for (long h = 0; h < op.out.width; h++, own += op.columns) {
      const float dz = op.activation != IDENTITY && !op.slope_applied ? dy[h] * slope[h] : dy[h];
      long c = 0;
      for (; c + W <= op.columns; c += W) store(own + c, splat(dz) * load(scratch + c));
      for (; c < op.columns; c++) own[c] = dz * scratch[c];
    }
  }
}

}  // namespace

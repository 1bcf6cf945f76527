// logit = e^2 (1 + 2 w |w|) x + b - e^2 / 2 of a token x of 0 and 1: the canonical model of binary
// chains (arXiv 2406.03072). Two logits a member, so both are computed once. Sums are in double.
#pragma once

#include "plan.h"
#include "simd.h"

namespace {

struct Canonical {
  double e, w, b;
  Canonical(const compfast::OpRecord& op, const float* params)
      : e(params[op.weight]), w(params[op.weight2]), b(params[op.bias]) {}
  double size() const { return w < 0 ? -w : w; }
  double slope() const { return 1.0 + 2.0 * w * size(); }
};

// Position of a sequence's row i of `rows` among its T.
inline int32_t token_of(const int32_t* tokens, long t, long rows, long s, long i) {
  return tokens[s * t + t - rows + i];
}

inline void canonical_forward(const compfast::OpRecord& op, long n, long t, const int32_t* tokens,
                              const float* params, float* values) {
  const Canonical model(op, params);
  const double base = model.b - model.e * model.e / 2;
  const float logits[2] = {(float)base, (float)(base + model.e * model.e * model.slope())};
  for (long s = 0; s < n; s++)
    for (long i = 0; i < op.out.rows; i++) {
      float* row = values + op.out.value + (s * op.out.rows + i) * op.out.ld;
      for (long j = 0; j < op.out.ld; j += W) store(row + j, vf{});
      row[0] = logits[token_of(tokens, t, op.out.rows, s, i)];
    }
}

inline void canonical_backward(const compfast::OpRecord& op, long n, long t, const int32_t* tokens,
                               const float* params, const float* values, float* gradient) {
  double sums[2] = {};  // of the logits' gradients, by token
  for (long s = 0; s < n; s++)
    for (long i = 0; i < op.out.rows; i++)
      sums[token_of(tokens, t, op.out.rows, s, i)] +=
          (double)values[op.out.grad + (s * op.out.rows + i) * op.out.ld];
  const Canonical model(op, params);
  const double all = sums[0] + sums[1];
  gradient[op.weight] += (float)(model.e * (2.0 * model.slope() * sums[1] - all));
  gradient[op.weight2] += (float)(4.0 * model.size() * model.e * model.e * sums[1]);
  gradient[op.bias] += (float)all;
}

}  // namespace

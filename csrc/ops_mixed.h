// Generalised attention's entry points of op_table.h.
#pragma once

#include "attention_mixed.h"
#include "ops_rows.h"

namespace {
namespace ops {

using namespace compfast;

inline MixedShape mixed_shape(const MixedDims& a) {
  const float scale = (float)(1.0 / __builtin_sqrt((double)a.d_k));
  return {a.queries, a.positions, a.heads,   a.d_k,  a.d_v,
          a.causal,  scale,       a.weights, a.path, a.epsilon};
}

// rows [count, width] as [count, ld], zero padded; null stays null
inline const float* mixed_rows(long count, long width, long ld, const float* x, Scratch& s) {
  if (!x) return nullptr;
  float* to = s.take(count * ld);
  clear(to, count * ld);
  for (long r = 0; r < count; r++) std::memcpy(to + r * ld, x + r * width, width * sizeof(float));
  return to;
}

struct MixedArguments {
  long t_pad, relative_ld, q_size, k_size, v_size, o_size;
  const float *relative, *keep;
  MixedDeep deep;
  MixedArguments(const MixedDims& a, const float* relative_rows, const float* keep_rows,
                 const float* deep_rows, Scratch& s)
      : t_pad(padded(a.positions)),
        relative_ld(mixed_relative_ld(a.positions)),
        q_size(a.queries * a.heads * a.d_k),
        k_size(a.positions * a.heads * a.d_k),
        v_size(a.positions * a.heads * a.d_v),
        o_size(a.queries * a.heads * a.d_v),
        relative(mixed_rows(a.heads, 2 * a.positions - 1, relative_ld, relative_rows, s)),
        keep(mixed_rows(a.queries, a.positions, t_pad, keep_rows, s)),
        deep{deep_rows, a.d_v} {}
};

inline void mixed_forward(const MixedDims& a, const float* q, const float* k, const float* v,
                          const float* relative, const float* keep, const float* deep, float* o,
                          float* scratch) {
  Scratch s{scratch};
  const MixedArguments own(a, relative, keep, deep, s);
  const long k_ld = a.heads * a.d_k, v_ld = a.heads * a.d_v;
  for (long b = 0; b < a.sequences; b++)
    ::mixed_forward(mixed_shape(a), q + b * own.q_size, k_ld, k + b * own.k_size, k_ld,
                    v + b * own.v_size, v_ld, own.relative, own.relative_ld, own.keep, own.t_pad,
                    own.deep, o + b * own.o_size, v_ld, s.next);
}

inline void mixed_backward(const MixedDims& a, const float* q, const float* k, const float* v,
                           const float* relative, const float* keep, const float* deep,
                           const float* d_o, float* dq, float* dk, float* dv, float* d_relative,
                           float* d_deep, float* scratch) {
  Scratch s{scratch};
  const MixedArguments own(a, relative, keep, deep, s);
  const long k_ld = a.heads * a.d_k, v_ld = a.heads * a.d_v, width = 2 * a.positions - 1;
  float* d_bias = relative ? s.take(a.heads * own.relative_ld) : nullptr;
  if (relative) clear(d_bias, a.heads * own.relative_ld);
  if (deep) clear(d_deep, a.heads * a.d_v * a.d_v);
  for (long b = 0; b < a.sequences; b++) {
    const long at = b * own.k_size, v_at = b * own.v_size;
    ::mixed_backward(mixed_shape(a), q + b * own.q_size, k_ld, k + at, k_ld, v + v_at, v_ld,
                     own.relative, own.relative_ld, own.keep, own.t_pad, own.deep,
                     d_o + b * own.o_size, v_ld, dq + b * own.q_size, k_ld, dk + at, k_ld,
                     dv + v_at, v_ld, d_bias, d_deep, s.next);
  }
  if (!relative) return;
  for (long h = 0; h < a.heads; h++)
    std::memcpy(d_relative + h * width, d_bias + h * own.relative_ld, width * sizeof(float));
}

}  // namespace ops
}  // namespace

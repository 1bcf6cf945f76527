// Generalised attention as an op of a plan: its relative bias is a table of buckets, spread over
// all distances once a step, and its dropout mask is drawn once a step.
#pragma once

#include "attention_mixed.h"
#include "philox.h"
#include "plan.h"

namespace {

using namespace compfast;

// Nobody else reads its queries, keys and values: their gradients are written.
inline MixedShape mixed_shape(const OpRecord& op) {
  const float scale = (float)(1.0 / __builtin_sqrt((double)op.d_k));
  return {op.out.rows,    op.in[1].rows, op.heads,  op.d_k,  op.d_v,
          op.causal != 0, scale,         op.scores, op.path, op.epsilon};
}

inline MixedDeep mixed_deep_of(const OpRecord& op, const float* params) {
  return {op.weight2 < 0 ? nullptr : params + op.weight2, op.deep_ld};
}

// packed: [heads, mixed_relative_ld(T)] <- the table [heads, weight_ld] by the distances' buckets
inline void relative_pack(const PlanRecord& plan, const OpRecord& op, const float* params,
                          float* packed) {
  const long t = plan.ports.positions, ld = mixed_relative_ld(t);
  for (long h = 0; h < op.heads; h++)
    for (long j = 0; j < 2 * t - 1; j++)
      packed[op.packed + h * ld + j] = params[op.weight + h * op.weight_ld + plan.buckets[j]];
}

// The mask's last rows [out.rows, T padded] (compfast/models/dropout.py), or ones.
inline void keep_pack(const PlanRecord& plan, const OpRecord& op, uint64_t seed, int64_t step,
                      float* packed) {
  const int64_t t = plan.ports.positions, rows = op.out.rows;
  Block words{};
  for (int64_t i = 0; i < rows; i++) {
    float* to = packed + op.keep + i * to_pad(t);
    for (int64_t j = 0; j < t; j++) {
      const int64_t at = (i + t - rows) * t + j;
      if (step >= 0 && (j == 0 || at % 4 == 0))
        words = philox({{(uint32_t)(at / 4), (uint32_t)step, DROPOUT, (uint32_t)op.layer}}, seed);
      to[j] = step < 0 ? 1.0f : words.word[at % 4] < op.drop_below ? 0.0f : op.keep_scale;
    }
  }
}

// `step` < 0: nothing is dropped.
inline void mixed_pack(const PlanRecord& plan, const OpRecord& op, const Member& member,
                       int64_t step, float* packed) {
  if (op.weight >= 0) relative_pack(plan, op, member.params, packed);
  if (op.keep >= 0) keep_pack(plan, op, member.dropout_seed, step, packed);
}

// A sequence of t of the T positions: its distances are the middle 2 t - 1 of the packed table's,
// and its mask is the first t rows and columns.
inline void mixed_op_forward(const OpRecord& op, long n, const float* params, const float* packed,
                             float* values, float* scratch, const Given& batch) {
  MixedShape shape = mixed_shape(op);
  const ViewRecord &q = op.in[0], &k = op.in[1], &v = op.in[2];
  for (long s = 0; s < n; s++) {
    shape.t_q = row_count(batch, s, op.out.rows);
    shape.t = row_count(batch, s, k.rows);
    if (shape.t == 0) continue;
    const long at = first_row(batch, s, k.rows);
    mixed_forward(
        shape, values + q.value + first_row(batch, s, q.rows) * q.ld, q.ld,
        values + k.value + at * k.ld, k.ld, values + v.value + at * v.ld, v.ld,
        op.weight < 0 ? nullptr : packed + op.packed + k.rows - shape.t, mixed_relative_ld(k.rows),
        op.keep < 0 ? nullptr : packed + op.keep, to_pad(k.rows), mixed_deep_of(op, params),
        values + op.out.value + first_row(batch, s, op.out.rows) * op.out.ld, op.out.ld, scratch);
  }
}

inline void mixed_op_backward(const PlanRecord& plan, const OpRecord& op, long n,
                              const float* params, const float* packed, float* values,
                              float* gradient, float* scratch, const Given& batch) {
  MixedShape shape = mixed_shape(op);
  const ViewRecord &q = op.in[0], &k = op.in[1], &v = op.in[2];
  const long ld = mixed_relative_ld(k.rows);
  float* relative = op.weight < 0 ? nullptr : values + op.spare;
  if (relative) std::memset(relative, 0, op.heads * ld * sizeof(float));
  for (long s = 0; s < n; s++) {
    shape.t_q = row_count(batch, s, op.out.rows);
    shape.t = row_count(batch, s, k.rows);
    if (shape.t == 0) continue;
    const long at = first_row(batch, s, k.rows), near = k.rows - shape.t;
    const long qs = first_row(batch, s, q.rows) * q.ld, ks = at * k.ld, vs = at * v.ld;
    mixed_backward(shape, values + q.value + qs, q.ld, values + k.value + ks, k.ld,
                   values + v.value + vs, v.ld, op.weight < 0 ? nullptr : packed + op.packed + near,
                   ld, op.keep < 0 ? nullptr : packed + op.keep, to_pad(k.rows),
                   mixed_deep_of(op, params),
                   values + op.out.grad + first_row(batch, s, op.out.rows) * op.out.ld, op.out.ld,
                   values + q.grad + qs, q.ld, values + k.grad + ks, k.ld, values + v.grad + vs,
                   v.ld, relative ? relative + near : nullptr,
                   op.weight2 < 0 ? nullptr : gradient + op.weight2, scratch);
  }
  if (!relative) return;
  for (long h = 0; h < op.heads; h++)
    for (long j = 0; j < 2 * (long)k.rows - 1; j++)
      gradient[op.weight + h * op.weight_ld + plan.buckets[j]] += relative[h * ld + j];
}

}  // namespace

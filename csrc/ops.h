// The entry points of op_table.h: rows are brought to a multiple of 16 floats where they are not,
// the kernel runs, the results lose their padding again.
#pragma once

#include "adamw.h"
#include "attention.h"
#include "cross_entropy.h"
#include "embed.h"
#include "norm.h"
#include "op_table.h"
#include "ops_linear.h"
#include "ops_mixed.h"
#include "ops_rows.h"
#include "sgd.h"

namespace {
namespace ops {

using namespace compfast;

inline void norm_forward(const NormShape& shape, const float* x, const float* g, const float* b,
                         float* y, float* saved, float* scratch) {
  Scratch s{scratch};
  const long n = shape.rows, d = shape.d, ld = padded(d);
  const float* xp = with_padding(n, d, x, s);
  const float* gp = with_padding(1, d, g, s);
  const float* bp = with_padding(1, d, b, s);
  float* to = room(n, d, y, s);
  ::norm_forward(n, d, shape.eps, xp, ld, gp, bp, to, ld, saved);
  without_padding(n, d, to, y);
}

inline void norm_backward(const NormShape& shape, const float* x, const float* g, const float* dy,
                          const float* saved, float* dx, float* dg, float* db, float* scratch) {
  Scratch s{scratch};
  const long n = shape.rows, d = shape.d, ld = padded(d);
  const float* xp = with_padding(n, d, x, s);
  const float* gp = with_padding(1, d, g, s);
  const float* dyp = with_padding(n, d, dy, s);
  float* to = room(n, d, dx, s);
  float *to_g = room(1, d, dg, s), *to_b = room(1, d, db, s);
  clear(to_g, ld);
  clear(to_b, ld);
  ::norm_backward(n, d, xp, ld, gp, dyp, ld, saved, to, ld, false, to_g, to_b);
  without_padding(n, d, to, dx);
  without_padding(1, d, to_g, dg);
  without_padding(1, d, to_b, db);
}

inline AttentionShape sequence_shape(const AttentionDims& a) {
  const float scale = (float)(1.0 / __builtin_sqrt((double)a.d_k));
  return {a.positions, a.positions, a.heads, a.d_k, a.d_v, a.causal, scale};
}

// A sequence whose last vector may be read past its end: itself where no head's width leaves a
// rest, or a copy.
inline const float* with_slack(const AttentionDims& a, long count, const float* x, float* copy) {
  if (a.d_k % PAD == 0 && a.d_v % PAD == 0) return x;
  std::memcpy(copy, x, count * sizeof(float));
  clear(copy + count, PAD);
  return copy;
}

inline void attention_forward(const AttentionDims& a, const float* q, const float* k,
                              const float* v, float* o, float* saved, float* scratch) {
  Scratch s{scratch};
  const long q_ld = a.heads * a.d_k, v_ld = a.heads * a.d_v;
  const long q_size = a.positions * q_ld, v_size = a.positions * v_ld;
  const long saved_size = a.heads * a.positions * attention_saved_row(a.positions);
  float* copy = s.take(v_size + PAD);
  for (long b = 0; b < a.sequences; b++)
    ::attention_forward(sequence_shape(a), q + b * q_size, q_ld, k + b * q_size, q_ld,
                        with_slack(a, v_size, v + b * v_size, copy), v_ld, o + b * v_size, v_ld,
                        saved + b * saved_size, s.next);
}

inline void attention_backward(const AttentionDims& a, const float* q, const float* k,
                               const float* v, const float* o, const float* saved, const float* d_o,
                               float* dq, float* dk, float* dv, float* scratch) {
  Scratch s{scratch};
  const long q_ld = a.heads * a.d_k, v_ld = a.heads * a.d_v;
  const long q_size = a.positions * q_ld, v_size = a.positions * v_ld;
  const long saved_size = a.heads * a.positions * attention_saved_row(a.positions);
  float *q_copy = s.take(q_size + PAD), *k_copy = s.take(q_size + PAD);
  float* o_copy = s.take(v_size + PAD);
  for (long b = 0; b < a.sequences; b++) {
    const long at = b * q_size, v_at = b * v_size;
    ::attention_backward(sequence_shape(a), with_slack(a, q_size, q + at, q_copy), q_ld,
                         with_slack(a, q_size, k + at, k_copy), q_ld, v + v_at, v_ld, o + v_at,
                         with_slack(a, v_size, d_o + v_at, o_copy), v_ld, saved + b * saved_size,
                         dq + at, q_ld, dk + at, q_ld, dv + v_at, v_ld, s.next);
  }
}

inline float cross_entropy(int64_t rows, int64_t vocabulary, const float* logits,
                           const int32_t* targets, float* d_logits, float* scratch) {
  const float inverse = 1.0f / (float)rows;
  double sum = 0;
  for (long r = 0; r < rows; r++) {
    Scratch s{scratch};
    const float* z = with_padding(1, vocabulary, logits + r * vocabulary, s);
    float* dz = room(1, vocabulary, d_logits + r * vocabulary, s);
    const double loss = ::cross_entropy(vocabulary, z, targets[r], inverse, dz);
    // The loss's logarithm knows finite numbers only; the gradient carries a NaN on.
    sum += dz[targets[r]] == dz[targets[r]] ? loss : (double)dz[targets[r]];
    without_padding(1, vocabulary, dz, d_logits + r * vocabulary);
  }
  return (float)(sum / (double)rows);
}

inline void activation(int32_t kind, int64_t count, const float* x, float* y, float* slope) {
  const long whole = count / PAD * PAD, rest = count - whole;
  std::memcpy(y, x, whole * sizeof(float));
  activate(kind, y, slope, whole);
  if (rest == 0) return;
  float values[PAD] = {}, d[PAD];
  std::memcpy(values, x + whole, rest * sizeof(float));
  activate(kind, values, d, PAD);
  std::memcpy(y + whole, values, rest * sizeof(float));
  std::memcpy(slope + whole, d, rest * sizeof(float));
}

inline void embed_forward(const EmbedShape& shape, const int32_t* tokens, const float* token_table,
                          const float* position_table, float* x, float* scratch) {
  Scratch s{scratch};
  const long d = shape.d, rows = shape.sequences * shape.positions;
  const float* table = with_padding(shape.vocabulary, d, token_table, s);
  const float* positions = with_padding(shape.positions, d, position_table, s);
  float* to = room(rows, d, x, s);
  ::embed_forward(shape.sequences, shape.positions, d, padded(d), padded(d), 0, tokens, table,
                  positions, to);
  without_padding(rows, d, to, x);
}

inline void embed_backward(const EmbedShape& shape, const int32_t* tokens, const float* dx,
                           float* d_token_table, float* d_position_table, float* scratch) {
  Scratch s{scratch};
  const long d = shape.d, rows = shape.sequences * shape.positions;
  const float* grad = with_padding(rows, d, dx, s);
  float* table = room(shape.vocabulary, d, d_token_table, s);
  float* positions = room(shape.positions, d, d_position_table, s);
  clear(table, shape.vocabulary * padded(d));
  clear(positions, shape.positions * padded(d));
  ::embed_backward(shape.sequences, shape.positions, d, padded(d), padded(d), 0, tokens, grad,
                   table, positions);
  without_padding(shape.vocabulary, d, table, d_token_table);
  without_padding(shape.positions, d, positions, d_position_table);
}

inline void adamw(const AdamWSettings& o, int64_t count, const float* g, float* p, float* m,
                  float* v) {
  AdamW a;
  a.clip = (float)o.clip;
  a.keep = (float)(1.0 - o.lr * o.weight_decay);
  a.step_size = (float)(o.lr / o.correction1);
  a.correction = (float)(1.0 / __builtin_sqrt(o.correction2));
  a.beta1 = (float)o.beta1;
  a.rest1 = (float)(1.0 - o.beta1);
  a.beta2 = (float)o.beta2;
  a.rest2 = (float)(1.0 - o.beta2);
  a.eps = (float)o.eps;
  const long whole = count / PAD * PAD, rest = count - whole;
  ::adamw(a, whole, g, p, m, v);
  if (rest == 0) return;
  float last[4][PAD] = {};
  const float* from[4] = {g + whole, p + whole, m + whole, v + whole};
  for (int i = 0; i < 4; i++) std::memcpy(last[i], from[i], rest * sizeof(float));
  ::adamw(a, PAD, last[0], last[1], last[2], last[3]);
  float* to[4] = {nullptr, p + whole, m + whole, v + whole};
  for (int i = 1; i < 4; i++) std::memcpy(to[i], last[i], rest * sizeof(float));
}

inline void sgd(const SgdSettings& o, int64_t count, const float* g, float* p, float* b) {
  const float keep = (float)(1.0 - o.lr * o.weight_decay);
  const Sgd a{(float)o.clip, keep, (float)o.lr, (float)o.momentum, o.nesterov};
  const long whole = count / PAD * PAD, rest = count - whole;
  ::sgd(a, whole, g, p, b);
  if (rest == 0) return;
  float last[3][PAD] = {};
  const float* from[3] = {g + whole, p + whole, b + whole};
  for (int i = 0; i < 3; i++) std::memcpy(last[i], from[i], rest * sizeof(float));
  ::sgd(a, PAD, last[0], last[1], last[2]);
  std::memcpy(p + whole, last[1], rest * sizeof(float));
  std::memcpy(b + whole, last[2], rest * sizeof(float));
}

constexpr OpTable TABLE = {
    linear_forward,     linear_backward, norm_forward,   norm_backward, attention_forward,
    attention_backward, mixed_forward,   mixed_backward, cross_entropy, activation,
    embed_forward,      embed_backward,  adamw,          sgd,
};

}  // namespace ops
}  // namespace

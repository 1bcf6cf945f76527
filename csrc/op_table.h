// The kernels as single operations on one member's dense row-major tensors: what one instruction
// set offers. Widths need not be multiples of anything; `scratch` holds what the kernels want
// padded, at least the number of floats that the function of the same name below gives.
#pragma once

#include <cstdint>

#include "attention_mixed_sizes.h"

namespace compfast {

struct LinearShape {
  int64_t rows, d_in, d_out;
  int32_t activation;  // csrc/activation.h
  bool bf16;           // operands of the products are rounded to bfloat16
};

struct NormShape {
  int64_t rows, d;
  float eps;
};

struct AttentionDims {
  int64_t sequences, positions, heads, d_k, d_v;
  bool causal;
};

struct MixedDims {
  int64_t sequences, queries, positions, heads, d_k, d_v;  // the last `queries` positions ask
  bool causal;
  int32_t weights, path;
  float epsilon;
};

struct EmbedShape {
  int64_t sequences, positions, d, vocabulary;
};

struct AdamWSettings {
  double lr, weight_decay, clip;    // clip multiplies the gradient
  double correction1, correction2;  // 1 - beta^step
  double beta1, beta2, eps;
};

struct SgdSettings {
  double lr, weight_decay, clip;  // clip multiplies the gradient
  double momentum;
  bool nesterov;
};

struct OpTable {
  // x [rows, d_in], w [d_out, d_in], b [d_out] or null -> y, slope [rows, d_out]; slope is null
  // where there is no activation.
  void (*linear_forward)(const LinearShape&, const float* x, const float* w, const float* b,
                         float* y, float* slope, float* scratch);
  void (*linear_backward)(const LinearShape&, const float* x, const float* w, const float* slope,
                          const float* dy, float* dx, float* dw, float* db, float* scratch);
  // x, y [rows, d], g, b [d]; saved [rows, 2]: mean and 1 / std.
  void (*norm_forward)(const NormShape&, const float* x, const float* g, const float* b, float* y,
                       float* saved, float* scratch);
  void (*norm_backward)(const NormShape&, const float* x, const float* g, const float* dy,
                        const float* saved, float* dx, float* dg, float* db, float* scratch);
  // q, k [B, T, H, d_k], v, o [B, T, H, d_v], saved [B, H, T, attention_saved_row(T)]
  void (*attention_forward)(const AttentionDims&, const float* q, const float* k, const float* v,
                            float* o, float* saved, float* scratch);
  void (*attention_backward)(const AttentionDims&, const float* q, const float* k, const float* v,
                             const float* o, const float* saved, const float* d_o, float* dq,
                             float* dk, float* dv, float* scratch);
  // q [B, T_q, H, d_k], k [B, T, H, d_k], v [B, T, H, d_v], o [B, T_q, H, d_v]; null or relative
  // [H, 2 T - 1], keep [T_q, T]; deep [H, d_v, d_v], null unless the path is deep
  void (*mixed_forward)(const MixedDims&, const float* q, const float* k, const float* v,
                        const float* relative, const float* keep, const float* deep, float* o,
                        float* scratch);
  void (*mixed_backward)(const MixedDims&, const float* q, const float* k, const float* v,
                         const float* relative, const float* keep, const float* deep,
                         const float* d_o, float* dq, float* dk, float* dv, float* d_relative,
                         float* d_deep, float* scratch);
  // logits, d_logits [rows, vocabulary] -> mean loss
  float (*cross_entropy)(int64_t rows, int64_t vocabulary, const float* logits,
                         const int32_t* targets, float* d_logits, float* scratch);
  void (*activation)(int32_t kind, int64_t count, const float* x, float* y, float* slope);
  // tokens [B, T], token_table [V, d], position_table [>= T, d] -> x [B, T, d]
  void (*embed_forward)(const EmbedShape&, const int32_t* tokens, const float* token_table,
                        const float* position_table, float* x, float* scratch);
  void (*embed_backward)(const EmbedShape&, const int32_t* tokens, const float* dx,
                         float* d_token_table, float* d_position_table, float* scratch);
  void (*adamw)(const AdamWSettings&, int64_t count, const float* g, float* p, float* m, float* v);
  // b: the momentum's buffer, which stays as it is without one
  void (*sgd)(const SgdSettings&, int64_t count, const float* g, float* p, float* b);
};

static inline int64_t linear_scratch(const LinearShape& s) {
  const int64_t in = to_pad(s.d_in), out = to_pad(s.d_out);
  const int64_t forward = s.d_in * out + out + 2 * s.rows * out + s.rows * in;
  const int64_t backward = s.rows * out + out + 2 * s.rows * in + 2 * s.d_out * in;
  // Operands in pairs, of the larger product.
  const int64_t wide = in > out ? in : out;
  const int64_t pairs = s.bf16 ? (s.rows + wide / 2 + 1) * (in + out) : 0;
  return (forward > backward ? forward : backward) + pairs;
}

static inline int64_t norm_scratch(const NormShape& s) { return (3 * s.rows + 3) * to_pad(s.d); }

static inline int64_t attention_scratch(const AttentionDims& s) {
  const int64_t widest = s.d_k > s.d_v ? s.d_k : s.d_v, t = s.positions;
  const int64_t copies = 4 * (to_pad(t * s.heads * widest) + 16);
  return copies + attention_room(t, t, s.d_k, s.d_v);
}

static inline int64_t mixed_scratch(const MixedDims& s) {
  const int64_t t = s.positions;
  const int64_t copies = 2 * s.heads * mixed_relative_ld(t) + s.queries * to_pad(t);
  return copies + mixed_room(t, s.heads, s.d_k, s.d_v, s.path);
}

static inline int64_t cross_entropy_scratch(int64_t vocabulary) { return 2 * to_pad(vocabulary); }

static inline int64_t embed_scratch(const EmbedShape& s) {
  const int64_t rows = s.vocabulary + s.positions + s.sequences * s.positions;
  return rows * to_pad(s.d);
}

}  // namespace compfast

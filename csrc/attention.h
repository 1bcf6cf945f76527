// O = softmax(Q K^T / sqrt(d_k)) V a sequence and head, and its gradient, fp32.
// Query row i of t_q stands at position i + T - t_q; causal: it sees keys 0 .. its position.
// Gradients of k and v are written, or added where the shape says so: k and v may be one buffer.
// Keys and values are copied to [d, T padded] columns so that a row of scores is a few
// registers and no product needs a horizontal sum. P [t_q, T padded] is saved for backward.
#pragma once

#include "gemm.h"

namespace {

struct AttentionShape {
  long t_q, t, heads, d_k, d_v;
  bool causal;
  float scale;
  bool add_dk = false, add_dv = false;  // dv goes first
};

// out[c * t_pad + j] = in[j * ld + c], in blocks of 4 x 4
inline void columns_of(const float* in, long ld, long t, long d, float* out, long t_pad) {
  typedef float v4 __attribute__((vector_size(16)));
  typedef float v4_unaligned __attribute__((vector_size(16), aligned(4), may_alias));
  typedef int32_t i4 __attribute__((vector_size(16)));
  long j = 0;
  for (; j + 4 <= t; j += 4) {
    const float* rows = in + j * ld;
    long c = 0;
    for (; c + 4 <= d; c += 4) {
      const v4 r0 = *reinterpret_cast<const v4_unaligned*>(rows + c);
      const v4 r1 = *reinterpret_cast<const v4_unaligned*>(rows + ld + c);
      const v4 r2 = *reinterpret_cast<const v4_unaligned*>(rows + 2 * ld + c);
      const v4 r3 = *reinterpret_cast<const v4_unaligned*>(rows + 3 * ld + c);
      const v4 a = __builtin_shuffle(r0, r1, i4{0, 4, 1, 5});
      const v4 b = __builtin_shuffle(r0, r1, i4{2, 6, 3, 7});
      const v4 e = __builtin_shuffle(r2, r3, i4{0, 4, 1, 5});
      const v4 f = __builtin_shuffle(r2, r3, i4{2, 6, 3, 7});
      float* to = out + c * t_pad + j;
      *reinterpret_cast<v4_unaligned*>(to) = __builtin_shuffle(a, e, i4{0, 1, 4, 5});
      *reinterpret_cast<v4_unaligned*>(to + t_pad) = __builtin_shuffle(a, e, i4{2, 3, 6, 7});
      *reinterpret_cast<v4_unaligned*>(to + 2 * t_pad) = __builtin_shuffle(b, f, i4{0, 1, 4, 5});
      *reinterpret_cast<v4_unaligned*>(to + 3 * t_pad) = __builtin_shuffle(b, f, i4{2, 3, 6, 7});
    }
    for (; c < d; c++)
      for (long r = 0; r < 4; r++) out[c * t_pad + j + r] = rows[r * ld + c];
  }
  for (; j < t; j++)
    for (long c = 0; c < d; c++) out[c * t_pad + j] = in[j * ld + c];
}

inline void softmax_rows(const AttentionShape& s, const float* scores, float* p, long t_pad) {
  const float negative = -__builtin_inff();
  for (long i = 0; i < s.t_q; i++) {
    const long seen = s.causal ? i + s.t - s.t_q + 1 : s.t;
    const float* row = scores + i * t_pad;
    float* out = p + i * t_pad;
    vf top = splat(negative);
    for (long j = 0; j < t_pad; j += W)
      top = vmax(top, select(first_lanes(seen - j), load(row + j), splat(negative)));
    const vf best = max_lanes(top);
    vf sum = vf{};
    for (long j = 0; j < t_pad; j += W) {
      const vf x = vexp((load(row + j) - best) * splat(s.scale));
      const vf e = select(first_lanes(seen - j), x, vf{});
      sum += e;
      store(out + j, e);
    }
    const vf inverse = splat(1.0f) / sum_lanes(sum);
    for (long j = 0; j < t_pad; j += W) store(out + j, load(out + j) * inverse);
  }
}

// scratch: see attention_scratch
inline void attention_forward(const AttentionShape& s, const float* q, long q_ld, const float* k,
                              long k_ld, const float* v, long v_ld, float* o, long o_ld, float* p,
                              float* scratch) {
  const long t_pad = padded(s.t);
  float* columns = scratch;
  float* scores = columns + (s.d_k > s.d_v ? s.d_k : s.d_v) * t_pad;
  float* exact = scores + s.t_q * t_pad;
  for (long h = 0; h < s.heads; h++) {
    float* ph = p + h * s.t_q * t_pad;
    columns_of(k + h * s.d_k, k_ld, s.t, s.d_k, columns, t_pad);
    gemm(s.t_q, s.t, s.d_k, q + h * s.d_k, q_ld, 1, columns, t_pad, scores, t_pad);
    softmax_rows(s, scores, ph, t_pad);
    gemm_exact(s.t_q, s.d_v, s.t, ph, t_pad, 1, v + h * s.d_v, v_ld, o + h * s.d_v, o_ld,
               Epilogue(), exact);
  }
}

// dV = P^T dO; dP = dO V^T; dS = P (dP - sum_j P dP) scale; dQ = dS K; dK = dS^T Q.
inline void attention_backward(const AttentionShape& s, const float* q, long q_ld, const float* k,
                               long k_ld, const float* v, long v_ld, const float* d_o, long do_ld,
                               const float* p, float* d_q, long dq_ld, float* d_k, long dk_ld,
                               float* d_v, long dv_ld, float* scratch) {
  const long t_pad = padded(s.t);
  float* columns = scratch;
  float* d_s = columns + (s.d_k > s.d_v ? s.d_k : s.d_v) * t_pad;
  float* exact = d_s + s.t_q * t_pad;
  Epilogue dk_epilogue, dv_epilogue;
  dk_epilogue.add = s.add_dk;
  dv_epilogue.add = s.add_dv;
  for (long h = 0; h < s.heads; h++) {
    const float* ph = p + h * s.t_q * t_pad;
    const float* doh = d_o + h * s.d_v;
    gemm_exact(s.t, s.d_v, s.t_q, ph, 1, t_pad, doh, do_ld, d_v + h * s.d_v, dv_ld, dv_epilogue,
               exact);
    columns_of(v + h * s.d_v, v_ld, s.t, s.d_v, columns, t_pad);
    gemm(s.t_q, s.t, s.d_v, doh, do_ld, 1, columns, t_pad, d_s, t_pad);
    for (long i = 0; i < s.t_q; i++) {
      const long seen = s.causal ? i + s.t - s.t_q + 1 : s.t;
      float* row = d_s + i * t_pad;
      const float* pr = ph + i * t_pad;
      vf sum = vf{};
      for (long j = 0; j < t_pad; j += W)
        sum = fma(load(pr + j), select(first_lanes(seen - j), load(row + j), vf{}), sum);
      const vf mean = sum_lanes(sum);
      for (long j = 0; j < t_pad; j += W) {
        const vf x = load(pr + j) * (load(row + j) - mean) * splat(s.scale);
        store(row + j, select(first_lanes(seen - j), x, vf{}));
      }
    }
    gemm_exact(s.t_q, s.d_k, s.t, d_s, t_pad, 1, k + h * s.d_k, k_ld, d_q + h * s.d_k, dq_ld,
               Epilogue(), exact);
    gemm_exact(s.t, s.d_k, s.t_q, d_s, 1, t_pad, q + h * s.d_k, q_ld, d_k + h * s.d_k, dk_ld,
               dk_epilogue, exact);
  }
}

}  // namespace

// Attention of a lone query row a head, over at most ATTENTION_WHOLE keys and whole vectors of
// width: no transposed copies, and a score is a sum over lanes rather than a chain over d.
#pragma once

#include <utility>

#include "attention_sizes.h"
#include "simd.h"

namespace {

using namespace compfast;

constexpr int KEY_VECTORS = ATTENTION_WHOLE / W;

// Lane i is x . rows[i], i < N; what the other lanes hold means nothing.
template <int N>
vf products(const float* x, const float* rows, long ld, long d) {
  vf sum[N] = {};
  for (long c = 0; c < d; c += W) {
    const vf xv = load(x + c);
#pragma GCC unroll 16
    for (int i = 0; i < N; i++) sum[i] = fma(xv, load(rows + i * ld + c), sum[i]);
  }
  return lane_sums<N>(sum);
}

using Products = vf (*)(const float*, const float*, long, long);

template <int... N>
constexpr Products products_table(long count, std::integer_sequence<int, N...>) {
  constexpr Products table[] = {products<N + 1>...};
  return table[count - 1];
}

// x . rows[j] for t keys, `past` in the lanes after them.
inline void key_products(long t, const float* x, const float* rows, long ld, long d,
                         vf (&out)[KEY_VECTORS], float past) {
  for (int g = 0; g < KEY_VECTORS; g++) {
    const long here = t - g * W < W ? t - g * W : W;
    out[g] = splat(past);
    if (here <= 0) continue;
    const vf sums =
        products_table(here, std::make_integer_sequence<int, W>())(x, rows + g * W * ld, ld, d);
    out[g] = select(first_lanes(here), sums, splat(past));
  }
}

inline bool is_lone(long t_q, long t, long d_k, long d_v) {
  return t_q == 1 && t <= ATTENTION_WHOLE && d_k % W == 0 && d_v % W == 0;
}

// p [ATTENTION_WHOLE]
inline void lone_forward(long t, long d_k, long d_v, float scale, const float* q, const float* k,
                         long k_ld, const float* v, long v_ld, float* o, float* p) {
  vf s[KEY_VECTORS];
  key_products(t, q, k, k_ld, d_k, s, -__builtin_inff());
  vf top = s[0], total = vf{};
  for (int g = 1; g < KEY_VECTORS; g++) top = vmax(top, s[g]);
  const vf best = max_lanes(top);
  for (int g = 0; g < KEY_VECTORS; g++) {
    s[g] = select(first_lanes(t - g * W), vexp((s[g] - best) * splat(scale)), vf{});
    total += s[g];
  }
  const vf inverse = splat(1.0f) / sum_lanes(total);
  for (int g = 0; g < KEY_VECTORS; g++) store(p + g * W, s[g] * inverse);
  for (long c = 0; c < d_v; c += W) {
    vf sum = vf{};
    for (long j = 0; j < t; j++) sum = fma(splat(p[j]), load(v + j * v_ld + c), sum);
    store(o + c, sum);
  }
}

// Gradients of k and v are written or added; dv goes first, since both may be one buffer.
inline void lone_backward(long t, long d_k, long d_v, float scale, const float* q, const float* k,
                          long k_ld, const float* v, long v_ld, const float* d_o, const float* p,
                          float* d_q, float* d_k_rows, long dk_ld, bool add_dk, float* d_v_rows,
                          long dv_ld, bool add_dv) {
  vf d_s[KEY_VECTORS], total = vf{};
  alignas(64) float d_scores[ATTENTION_WHOLE];
  key_products(t, d_o, v, v_ld, d_v, d_s, 0.0f);
  for (int g = 0; g < KEY_VECTORS; g++) total = fma(load(p + g * W), d_s[g], total);
  const vf mean = sum_lanes(total);
  for (int g = 0; g < KEY_VECTORS; g++)
    store(d_scores + g * W, load(p + g * W) * (d_s[g] - mean) * splat(scale));
  for (long c = 0; c < d_v; c += W) {
    const vf grad = load(d_o + c);
    for (long j = 0; j < t; j++) {
      float* to = d_v_rows + j * dv_ld + c;
      const vf x = splat(p[j]) * grad;
      store(to, add_dv ? x + load(to) : x);
    }
  }
  for (long c = 0; c < d_k; c += W) {
    const vf query = load(q + c);
    vf sum = vf{};
    for (long j = 0; j < t; j++) {
      float* to = d_k_rows + j * dk_ld + c;
      const vf ds = splat(d_scores[j]), x = ds * query;
      sum = fma(ds, load(k + j * k_ld + c), sum);
      store(to, add_dk ? x + load(to) : x);
    }
    store(d_q + c, sum);
  }
}

}  // namespace

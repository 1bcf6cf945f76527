// One vector type for every instruction set: the vector extensions of GCC and
// Clang, COMPFAST_WIDTH lanes.
// The compiler may not contract a*b+c (-ffp-contract=off): every fused operation is a call of
// fma() below, so that the order and rounding of an operation is what the source says.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace {

constexpr int W = COMPFAST_WIDTH;
constexpr int PAD = 16;  // leading dimensions are multiples of this in every build

typedef float vf __attribute__((vector_size(W * 4)));
typedef int32_t vi __attribute__((vector_size(W * 4)));
typedef float vf_unaligned __attribute__((vector_size(W * 4), aligned(4), may_alias));

inline vf load(const float* p) { return *reinterpret_cast<const vf_unaligned*>(p); }
inline void store(float* p, vf x) { *reinterpret_cast<vf_unaligned*>(p) = x; }
#if COMPFAST_WIDTH == 16
inline vf splat(float x) { return vf{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
#elif COMPFAST_WIDTH == 8
inline vf splat(float x) { return vf{x, x, x, x, x, x, x, x}; }
#else
inline vf splat(float x) { return vf{x, x, x, x}; }
#endif
inline vi splat_int(int32_t x) { return vi{} + x; }
inline vf select(vi mask, vf a, vf b) { return mask ? a : b; }
inline vf magnitude(vf x) { return (vf)((vi)x & splat_int(0x7fffffff)); }

// a > b ? a : b, so that a NaN in b comes out.
inline vf vmax(vf a, vf b) {
#if defined(__AVX512F__) && COMPFAST_WIDTH == 16
  return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX__) && COMPFAST_WIDTH == 8
  return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__) && COMPFAST_WIDTH == 4
  return (vf)_mm_max_ps((__m128)a, (__m128)b);
#else
  return a > b ? a : b;
#endif
}

// a < b ? a : b
inline vf vmin(vf a, vf b) {
#if defined(__AVX512F__) && COMPFAST_WIDTH == 16
  return (vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX__) && COMPFAST_WIDTH == 8
  return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__) && COMPFAST_WIDTH == 4
  return (vf)_mm_min_ps((__m128)a, (__m128)b);
#else
  return a < b ? a : b;
#endif
}

inline vf fma(vf a, vf b, vf c) {
#if defined(__AVX512F__) && COMPFAST_WIDTH == 16
  return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__) && COMPFAST_WIDTH == 8
  return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__) && COMPFAST_WIDTH == 4
  return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

inline vf vsqrt(vf x) {
#if defined(__AVX512F__) && COMPFAST_WIDTH == 16
  return (vf)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX__) && COMPFAST_WIDTH == 8
  return (vf)_mm256_sqrt_ps((__m256)x);
#elif defined(__SSE2__) && COMPFAST_WIDTH == 4
  return (vf)_mm_sqrt_ps((__m128)x);
#elif defined(__aarch64__) && COMPFAST_WIDTH == 4
  return (vf)vsqrtq_f32((float32x4_t)x);
#else
#error "no vector square root for this instruction set"
#endif
}

inline vi lane_index() {
  vi lanes;
  for (int i = 0; i < W; i++) lanes[i] = i;
  return lanes;
}

// Lanes [0, n) of a vector; n may be negative or larger than W.
inline vi first_lanes(long n) { return lane_index() < splat_int(n > W ? W : n < 0 ? 0 : (int)n); }

// Lane i is lane LANES[i] of a followed by b. GCC has Clang's builtin only from version 12 on.
template <int... LANES, typename V>
inline V shuffle(V a, V b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, LANES...);
#else
  return __builtin_shuffle(a, b, decltype(a < b){LANES...});
#endif
}

// x with its halves (quarters, ...) exchanged: log2(W) of these combine all lanes.
template <int STRIDE>
inline vf exchange(vf x) {
#if COMPFAST_WIDTH == 16
  constexpr int S = STRIDE;
  return shuffle<0 ^ S, 1 ^ S, 2 ^ S, 3 ^ S, 4 ^ S, 5 ^ S, 6 ^ S, 7 ^ S, 8 ^ S, 9 ^ S, 10 ^ S,
                 11 ^ S, 12 ^ S, 13 ^ S, 14 ^ S, 15 ^ S>(x, x);
#elif COMPFAST_WIDTH == 8
  constexpr int S = STRIDE;
  return shuffle<0 ^ S, 1 ^ S, 2 ^ S, 3 ^ S, 4 ^ S, 5 ^ S, 6 ^ S, 7 ^ S>(x, x);
#else
  constexpr int S = STRIDE;
  return shuffle<0 ^ S, 1 ^ S, 2 ^ S, 3 ^ S>(x, x);
#endif
}

// All lanes hold the sum (the maximum); the order is a function of W alone.
inline vf sum_lanes(vf x) {
  x += exchange<1>(x);
  x += exchange<2>(x);
#if COMPFAST_WIDTH >= 8
  x += exchange<4>(x);
#endif
#if COMPFAST_WIDTH == 16
  x += exchange<8>(x);
#endif
  return x;
}

// Lane bit S of the result picks a or b; each lane is summed with the one S away.
template <int S>
inline vf pairwise(vf a, vf b) {
  const vi odd = (lane_index() & splat_int(S)) != vi{};
  return select(odd, b, a) + exchange<S>(select(odd, a, b));
}

// Lane i of the result is sum_lanes(x[i]), to the bit, for i < N <= W.
template <int N, int S = 1>
inline vf lane_sums(const vf (&x)[N]) {
  if constexpr (S == W) {
    return x[0];
  } else {
    vf half[(N + 1) / 2];
#pragma GCC unroll 8
    for (int i = 0; i < N / 2; i++) half[i] = pairwise<S>(x[2 * i], x[2 * i + 1]);
    if constexpr (N % 2) half[N / 2] = x[N - 1] + exchange<S>(x[N - 1]);
    return lane_sums<(N + 1) / 2, 2 * S>(half);
  }
}

inline vf max_lanes(vf x) {
#if COMPFAST_WIDTH == 16
  x = vmax(x, exchange<8>(x));
#endif
#if COMPFAST_WIDTH >= 8
  x = vmax(x, exchange<4>(x));
#endif
  x = vmax(x, exchange<2>(x));
  x = vmax(x, exchange<1>(x));
  return x;
}

// p 2^n for whole n in [-126, 127], which the last bits of n + 1.5 2^23 = `shifted` spell; NaN in
// `given` comes out.
inline vf times_power_of_two(vf p, vf n, vf shifted, vf given) {
#if defined(__AVX512F__) && COMPFAST_WIDTH == 16
  (void)shifted, (void)given;
  return (vf)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
  (void)n;
  return select(given != given, given, (vf)((vi)p + ((vi)shifted << 23)));
#endif
}

// exp(x) for x clamped to [-87, 88], NaN stays NaN: x = n ln 2 + r, |r| <= ln 2 / 2, and a
// polynomial fitted to exp(r) within 4e-9. Relative error below 2 units in the last place.
inline vf vexp(vf given) {
  const vf x = vmin(splat(88.0f), vmax(splat(-87.0f), given));
  const vf magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const vf shifted = fma(x, splat(1.44269504f), magic);
  const vf n = shifted - magic;
  vf r = fma(n, splat(-0.693145752f), x);
  r = fma(n, splat(-1.42860677e-6f), r);
  vf p = splat(1.381459879e-3f);
  p = fma(p, r, splat(8.368716575e-3f));
  p = fma(p, r, splat(4.166838899e-2f));
  p = fma(p, r, splat(1.666652113e-1f));
  p = fma(p, r, splat(4.999999404e-1f));
  p = fma(p, r, splat(1.0f));
  p = fma(p, r, splat(1.0f));
  return times_power_of_two(p, n, shifted, given);
}

inline long padded(long n) { return (n + PAD - 1) / PAD * PAD; }

}  // namespace

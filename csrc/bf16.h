// bfloat16 operands in pairs: a lane of 32 bits holds two neighbours along the summed dimension,
// the first in the low half. Rounding is to nearest, ties to even; sums are float32.
#pragma once

#include "simd.h"

namespace {

typedef uint32_t vu __attribute__((vector_size(W * 4)));
typedef uint32_t vu_unaligned __attribute__((vector_size(W * 4), aligned(4), may_alias));

inline vu load(const uint32_t* p) { return *reinterpret_cast<const vu_unaligned*>(p); }
inline void store(uint32_t* p, vu x) { *reinterpret_cast<vu_unaligned*>(p) = x; }
inline vu splat(uint32_t x) { return vu{} + x; }

// The upper 16 bits are the bfloat16; the lower ones are left over.
inline vu round_bf16(vf x) {
  const vu bits = (vu)x;
  const vu rounded = bits + splat(0x7FFFu) + ((bits >> 16) & splat(1u));
  return x != x ? splat(0x7FC00000u) : rounded;
}

inline vu pair(vf low, vf high) {
#if defined(__AVX512BF16__) && COMPFAST_WIDTH == 16
  const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return (vu)_mm512_permutexvar_epi16(order, halves);
#else
  return (round_bf16(low) >> 16) | (round_bf16(high) & splat(0xFFFF0000u));
#endif
}

// 2 W consecutive numbers as W pairs.
inline vu neighbours(vf first, vf second) {
#if defined(__AVX512BF16__) && COMPFAST_WIDTH == 16
  return (vu)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
#elif COMPFAST_WIDTH == 16
  return pair(shuffle<0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30>(first, second),
              shuffle<1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31>(first, second));
#elif COMPFAST_WIDTH == 8
  return pair(shuffle<0, 2, 4, 6, 8, 10, 12, 14>(first, second),
              shuffle<1, 3, 5, 7, 9, 11, 13, 15>(first, second));
#else
  return pair(shuffle<0, 2, 4, 6>(first, second), shuffle<1, 3, 5, 7>(first, second));
#endif
}

inline vf multiply_add(vf a, vf b, vf sum) { return fma(a, b, sum); }

// sum + a.low b.low + a.high b.high
inline vf multiply_add(vu a, vu b, vf sum) {
#if defined(__AVX512BF16__) && COMPFAST_WIDTH == 16
  return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
  const vu high = splat(0xFFFF0000u);
  sum = fma((vf)(a << 16), (vf)(b << 16), sum);
  return fma((vf)(a & high), (vf)(b & high), sum);
#endif
}

inline long pairs(long n) { return (n + 1) / 2; }

// Leading dimension of a row of `columns` numbers in pairs.
inline long pair_ld(long columns) { return (columns + 31) / 32 * 16; }

// out [rows, out_ld]: pairs along a row; numbers past `columns` count as zero.
inline void pack_rows(long rows, long columns, const float* x, long ld, uint32_t* out,
                      long out_ld) {
  for (long r = 0; r < rows; r++)
    for (long c = 0; c < columns; c += 2 * W) {
      const float* from = x + r * ld + c;
      const vf first = select(first_lanes(columns - c), load(from), vf{});
      vf second = vf{};
      if (c + W < columns) second = select(first_lanes(columns - c - W), load(from + W), vf{});
      store(out + r * out_ld + c / 2, neighbours(first, second));
    }
}

// out [pairs(rows), out_ld]: pairs of rows; a last row without partner is paired with zero.
inline void pack_row_pairs(long rows, long columns, const float* x, long ld, uint32_t* out,
                           long out_ld) {
  for (long r = 0; r < rows; r += 2)
    for (long c = 0; c < columns; c += W) {
      const float* from = x + r * ld + c;
      const vf second = r + 1 < rows ? load(from + ld) : vf{};
      store(out + r / 2 * out_ld + c, pair(load(from), second));
    }
}

}  // namespace

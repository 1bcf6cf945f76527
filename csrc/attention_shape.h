// What attention's kernels share: sizes, which keys a row sees, keys and values as columns.
#pragma once

#include "attention_sizes.h"
#include "simd.h"

namespace {

using namespace compfast;

struct AttentionShape {
  long t_q, t, heads, d_k, d_v;
  bool causal;
  float scale;
  bool add_dk = false, add_dv = false;  // dv goes first
};

inline long keys_seen(const AttentionShape& s, long row) {
  return s.causal ? row + s.t - s.t_q + 1 : s.t;
}

// out[c * t_pad + j] = in[j * ld + c], in blocks of 4 x 4
inline void columns_of(const float* in, long ld, long t, long d, float* out, long t_pad) {
  typedef float v4 __attribute__((vector_size(16)));
  typedef float v4_unaligned __attribute__((vector_size(16), aligned(4), may_alias));
  long j = 0;
  for (; j + 4 <= t; j += 4) {
    const float* rows = in + j * ld;
    long c = 0;
    for (; c + 4 <= d; c += 4) {
      const v4 r0 = *reinterpret_cast<const v4_unaligned*>(rows + c);
      const v4 r1 = *reinterpret_cast<const v4_unaligned*>(rows + ld + c);
      const v4 r2 = *reinterpret_cast<const v4_unaligned*>(rows + 2 * ld + c);
      const v4 r3 = *reinterpret_cast<const v4_unaligned*>(rows + 3 * ld + c);
      const v4 a = shuffle<0, 4, 1, 5>(r0, r1);
      const v4 b = shuffle<2, 6, 3, 7>(r0, r1);
      const v4 e = shuffle<0, 4, 1, 5>(r2, r3);
      const v4 f = shuffle<2, 6, 3, 7>(r2, r3);
      float* to = out + c * t_pad + j;
      *reinterpret_cast<v4_unaligned*>(to) = shuffle<0, 1, 4, 5>(a, e);
      *reinterpret_cast<v4_unaligned*>(to + t_pad) = shuffle<2, 3, 6, 7>(a, e);
      *reinterpret_cast<v4_unaligned*>(to + 2 * t_pad) = shuffle<0, 1, 4, 5>(b, f);
      *reinterpret_cast<v4_unaligned*>(to + 3 * t_pad) = shuffle<2, 3, 6, 7>(b, f);
    }
    for (; c < d; c++)
      for (long r = 0; r < 4; r++) out[c * t_pad + j + r] = rows[r * ld + c];
  }
  for (; j < t; j++)
    for (long c = 0; c < d; c++) out[c * t_pad + j] = in[j * ld + c];
}

}  // namespace

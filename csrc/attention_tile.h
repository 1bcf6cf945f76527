// A tile of narrow attention: TILE_QUERIES query rows by TILE_KEYS vectors of keys in registers,
// keys in the lanes. Queries are copied to [d, TILE_QUERIES], keys and values to columns [d, keys].
#pragma once

#include "attention_shape.h"
#include "simd.h"

namespace {

using namespace compfast;

constexpr int TILE_QUERIES = NARROW_TILE;
constexpr int TILE_KEYS = 2;
constexpr float LOG2_E = 1.44269504f, LN_2 = 0.693147181f;

using QueryTile = vf[TILE_QUERIES][TILE_KEYS];

// 2^x for x <= 0, exactly 0 for x <= -127; NaN stays NaN. Adding `magic` rounds x to n and spells
// n + 127, the exponent of 2^n, in the last bits. The polynomial is 2^r within 2e-8, |r| <= 1/2.
inline vf power_of_two(vf given) {
  const vf x = vmax(splat(-127.0f), given);
  const vf magic = splat(12582912.0f + 127.0f);  // 1.5 * 2^23
  const vf shifted = x + magic;
  const vf r = x - (shifted - magic);
  vf p = splat(1.535336196e-4f);
  p = fma(p, r, splat(1.339887502e-3f));
  p = fma(p, r, splat(9.618436918e-3f));
  p = fma(p, r, splat(5.550332367e-2f));
  p = fma(p, r, splat(2.402264774e-1f));
  p = fma(p, r, splat(6.931471825e-1f));
  p = fma(p, r, splat(1.0f));
  return p * (vf)((vi)shifted << 23);
}

// tile = x^T columns; x [d, TILE_QUERIES], columns [d, ld] from the tile's first key on
inline void narrow_products(long d, const float* x, const float* columns, long ld,
                            QueryTile& tile) {
#pragma GCC unroll 4
  for (int r = 0; r < TILE_QUERIES; r++)
    for (int n = 0; n < TILE_KEYS; n++) tile[r][n] = vf{};
  for (long c = 0; c < d; c++) {
    const vf first = load(columns + c * ld), second = load(columns + c * ld + W);
#pragma GCC unroll 4
    for (int r = 0; r < TILE_QUERIES; r++) {
      const vf own = splat(x[c * TILE_QUERIES + r]);
      tile[r][0] = fma(own, first, tile[r][0]);
      tile[r][1] = fma(own, second, tile[r][1]);
    }
  }
}

// sums [d, TILE_KEYS * W] += x tile
inline void narrow_add(long d, const float* x, const QueryTile& tile, float* sums) {
  for (long c = 0; c < d; c++) {
    float* to = sums + c * TILE_KEYS * W;
    vf first = load(to), second = load(to + W);
#pragma GCC unroll 4
    for (int r = 0; r < TILE_QUERIES; r++) {
      const vf own = splat(x[c * TILE_QUERIES + r]);
      first = fma(own, tile[r][0], first);
      second = fma(own, tile[r][1], second);
    }
    store(to, first);
    store(to + W, second);
  }
}

// columns [d, ld] += sums
inline void narrow_store(long d, const float* sums, float* columns, long ld) {
  for (long c = 0; c < d; c++)
    for (int n = 0; n < TILE_KEYS; n++) {
      float* to = columns + c * ld + n * W;
      store(to, load(to) + load(sums + (c * TILE_KEYS + n) * W));
    }
}

// Lanes past the last key that a row sees become -inf; `at` is the tile's first key.
inline void narrow_mask(const AttentionShape& s, long row, long at, QueryTile& tile) {
#pragma GCC unroll 4
  for (int r = 0; r < TILE_QUERIES; r++)
#pragma GCC unroll 2
    for (int n = 0; n < TILE_KEYS; n++) {
      const vi seen = first_lanes(keys_seen(s, row + r) - at - n * W);
      tile[r][n] = select(seen, tile[r][n], splat(-__builtin_inff()));
    }
}

// out [d, TILE_QUERIES] = factor x rows; rows past the last are zero
inline void narrow_rows(const float* in, long in_ld, long rows, long d, float factor, float* out) {
  if (rows < TILE_QUERIES) std::memset(out, 0, d * TILE_QUERIES * sizeof(float));
  columns_of(in, in_ld, rows, d, out, TILE_QUERIES);
  for (long i = 0; i < d * TILE_QUERIES; i++) out[i] *= factor;
}

// out [d, ld] = the columns of in [t, d], and zeros up to a whole tile
inline void narrow_columns(const float* in, long in_ld, long t, long d, float* out, long ld) {
  columns_of(in, in_ld, t, d, out, ld);
  for (long c = 0; c < d; c++)
    std::memset(out + c * ld + t, 0, (narrow_keys(t) - t) * sizeof(float));
}

// out [t, d] (+)= factor x columns [d, ld], which are left scaled
inline void narrow_gradient(float* columns, long ld, long t, long d, float factor, float* out,
                            long out_ld, bool add) {
  for (long c = 0; c < d; c++)
    for (long j = 0; j < t; j++) columns[c * ld + j] *= factor;
  if (!add) {
    columns_of(columns, ld, d, t, out, out_ld);
    return;
  }
  for (long j = 0; j < t; j++)
    for (long c = 0; c < d; c++) out[j * out_ld + c] += columns[c * ld + j];
}

}  // namespace

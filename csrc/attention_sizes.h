// What attention saves for backward and how much room it wants; the same for every vector width.
#pragma once

#include <cstdint>

namespace compfast {

static constexpr int64_t to_pad(int64_t n) { return (n + 15) / 16 * 16; }

// Up to this many positions P is saved whole; above, query rows pass in blocks.
constexpr int64_t ATTENTION_WHOLE = 16;
constexpr int64_t ATTENTION_BLOCK = 24;

// Heads of at most so many columns have a kernel of their own (attention_narrow.h) where there are
// keys enough for it to win. It takes query rows in tiles and, in backward, groups of tiles.
constexpr int64_t ATTENTION_NARROW = 16;
constexpr int64_t NARROW_TILE = 4;
constexpr int64_t NARROW_GROUP = 32;

static constexpr bool is_narrow(int64_t t_q, int64_t t, int64_t d_k, int64_t d_v) {
  const int64_t widest = d_k > d_v ? d_k : d_v;
  return t > ATTENTION_WHOLE && t_q >= NARROW_TILE && widest <= ATTENTION_NARROW && t >= 8 * widest;
}

// Keys in whole tiles of any width, and the stride of columns: no power of two, which would put
// all columns of a key into one set of the first cache.
static constexpr int64_t narrow_keys(int64_t t) { return (t + 31) / 32 * 32; }
static constexpr int64_t narrow_ld(int64_t t) { return narrow_keys(t) + 16; }

// Floats of scratch: columns of K, V and their gradients, a tile's scores; copies of a group's
// queries and of dO, and its dQ with a vector a number.
static constexpr int64_t narrow_room(int64_t t, int64_t d_k, int64_t d_v) {
  return (2 * (d_k + d_v) + NARROW_TILE) * narrow_ld(t) + NARROW_GROUP * (17 * d_k + d_v);
}

// Floats saved a query row and head.
static constexpr int64_t attention_saved_row(int64_t t) {
  return t <= ATTENTION_WHOLE ? ATTENTION_WHOLE : 2;
}

// Rows of a block of scores.
static constexpr int64_t attention_rows(int64_t t_q, int64_t t) {
  return t <= ATTENTION_WHOLE ? t_q : ATTENTION_BLOCK;
}

// Floats of scratch: columns of K and V, P, scores or dS, one exact product.
static constexpr int64_t attention_room(int64_t t_q, int64_t t, int64_t d_k, int64_t d_v) {
  if (is_narrow(t_q, t, d_k, d_v)) return narrow_room(t, d_k, d_v);
  const int64_t rows = attention_rows(t_q, t), widest = d_k > d_v ? d_k : d_v;
  return (d_k + d_v + 2 * rows) * to_pad(t) + (t > rows ? t : rows) * to_pad(widest) + 16;
}

}  // namespace compfast

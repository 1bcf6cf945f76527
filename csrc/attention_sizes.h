// What attention saves for backward and how much room it wants; the same for every vector width.
#pragma once

#include <cstdint>

namespace compfast {

static constexpr int64_t to_pad(int64_t n) { return (n + 15) / 16 * 16; }

// Up to this many positions P is saved whole; above, query rows pass in blocks.
constexpr int64_t ATTENTION_WHOLE = 16;
constexpr int64_t ATTENTION_BLOCK = 24;

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
  const int64_t rows = attention_rows(t_q, t), widest = d_k > d_v ? d_k : d_v;
  return (d_k + d_v + 2 * rows) * to_pad(t) + (t > rows ? t : rows) * to_pad(widest) + 16;
}

}  // namespace compfast

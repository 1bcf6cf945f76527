// Training batches of symbolic Raven matrices (compfast/tasks/sraven.py), bit for bit. Words of a
// sequence: its rules, a permutation for each column, then two for each row of each feature.
#pragma once

#include <cstring>

#include "words.h"

namespace compfast {

// Rules in the order of compfast/tasks/sraven_rules.py.
enum SravenRule : int32_t {
  SRAVEN_ADDITION = 5,
  SRAVEN_DIFFERENCE = 6,
  SRAVEN_DISTRIBUTE = 7,
  SRAVEN_RULES = 8
};

constexpr int32_t SRAVEN_MOST_FEATURES = 16;

struct SravenStream {
  const int32_t* rules = nullptr;  // [set_count, features]
  int64_t set_count = 0;
  const int32_t* permutations = nullptr;  // [permutation_count, features]
  int64_t permutation_count = 0;
  const int32_t* triples = nullptr;  // [triple_count, 3]: different symbols
  int64_t triple_count = 0;
  int32_t features = 0, symbols = 0;
  int32_t permuted = 0;  // 1: each column shows the features in an order of its own
};

// grid [row, column] of one feature.
static inline void sraven_grid(const SravenStream& s, int32_t rule, Words& words,
                               int32_t grid[3][3]) {
  static const int32_t STEPS[] = {0, 1, 2, -1, -2, 0, 0, 0};
  static const int32_t ORDERS[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2},
                                       {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
  const int32_t f = s.symbols;
  for (int32_t row = 0; row < 3; row++) {
    const uint32_t first = next_word(words), second = next_word(words);
    const int32_t a = (int32_t)below(first, (uint32_t)f), b = (int32_t)below(second, (uint32_t)f);
    if (rule == SRAVEN_ADDITION || rule == SRAVEN_DIFFERENCE) {
      grid[row][0] = a;
      grid[row][1] = b;
      grid[row][2] = (rule == SRAVEN_ADDITION ? a + b : a - b + f) % f;
    } else if (rule != SRAVEN_DISTRIBUTE) {
      for (int32_t c = 0; c < 3; c++) grid[row][c] = (a + STEPS[rule] * c + 4 * f) % f;
    } else if (row == 0) {
      const uint32_t three = below(first, (uint32_t)s.triple_count);
      for (int32_t c = 0; c < 3; c++) grid[0][c] = s.triples[3 * (int64_t)three + c];
    } else {
      const int32_t* order = ORDERS[below(first, 6)];
      for (int32_t c = 0; c < 3; c++) grid[row][c] = grid[0][order[c]];
    }
  }
}

// Blocks of four words that a sequence owns.
static inline int64_t sraven_blocks(const SravenStream& s) {
  return (4 + 6 * (int64_t)s.features + 3) / 4;
}

// Sequences [begin, end) of training step `step` into vectors [batch, 9 K, F], one-hot and zero in
// the last K rows, and targets [batch, K].
static inline void sraven_batch(const SravenStream& s, uint64_t seed, int64_t step, int64_t begin,
                                int64_t end, float* vectors, int32_t* targets) {
  const int32_t features = s.features;
  const int64_t size = 9 * (int64_t)features * s.symbols;
  int32_t grids[SRAVEN_MOST_FEATURES][3][3];
  for (int64_t b = begin; b < end; b++) {
    Words words = words_of(seed, step, b, sraven_blocks(s));
    const int64_t set = below(next_word(words), (uint32_t)s.set_count);
    const int32_t* orders[3];
    for (const int32_t*& order : orders)
      order = s.permutations +
              (int64_t)below(next_word(words), (uint32_t)s.permutation_count) * features;
    for (int32_t k = 0; k < features; k++)
      sraven_grid(s, s.rules[set * features + k], words, grids[k]);
    float* out = vectors + b * size;
    std::memset(out, 0, (size_t)size * sizeof *out);
    for (int32_t panel = 0; panel < 9; panel++)
      for (int32_t k = 0; k < features; k++) {
        const int32_t row = panel / 3, column = panel % 3;
        const int32_t from = s.permuted != 0 ? orders[column][k] : k;
        const int32_t symbol = grids[from][row][column];
        if (panel < 8)
          out[((int64_t)panel * features + k) * s.symbols + symbol] = 1.0f;
        else
          targets[b * features + k] = symbol;
      }
  }
}

}  // namespace compfast

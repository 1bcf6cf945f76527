// The words of one training sequence, in order: it owns whole blocks of four.
#pragma once

#include "../philox.h"

namespace compfast {

struct Words {
  uint64_t seed;
  uint32_t step;
  uint32_t block;  // the next one
  int32_t used;
  Block now;
};

// Sequence b of a step, of `blocks` blocks each.
static inline Words words_of(uint64_t seed, int64_t step, int64_t b, int64_t blocks) {
  return {seed, (uint32_t)step, (uint32_t)(b * blocks), 4, {}};
}

static inline uint32_t next_word(Words& w) {
  if (w.used == 4) {
    w.now = philox({{w.block++, w.step, TRAIN, 0}}, w.seed);
    w.used = 0;
  }
  return w.now.word[w.used++];
}

// An exact float32 inside (0, 1).
static inline float uniform(uint32_t word) { return ((float)(word >> 9) + 0.5f) * 0x1p-23f; }

}  // namespace compfast

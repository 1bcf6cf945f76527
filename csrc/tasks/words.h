// The words of one training sequence, in order: it owns whole blocks of four.
#pragma once

#include "../philox.h"

namespace compfast {

struct Words {
  uint64_t seed;
  uint32_t step;
  uint32_t block;  // the next one
  int32_t used = 4;
  Block now{};

  // Sequence b of a step, of `blocks` blocks each.
  Words(uint64_t key, int64_t at, int64_t b, int64_t blocks)
      : seed(key), step((uint32_t)at), block((uint32_t)(b * blocks)) {}

  uint32_t next() {
    if (used == 4) {
      now = philox({{block++, step, TRAIN, 0}}, seed);
      used = 0;
    }
    return now.word[used++];
  }
};

// An exact float32 inside (0, 1).
static inline float uniform(uint32_t word) { return ((float)(word >> 9) + 0.5f) * 0x1p-23f; }

}  // namespace compfast

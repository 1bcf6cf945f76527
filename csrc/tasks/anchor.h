// Training batches of composite anchor functions (compfast/tasks/anchor.py), bit for bit.
// Words of a sequence: pair, (key, position), then one noise item a position.
#pragma once

#include "../philox.h"

namespace compfast {

struct AnchorStream {
  const int32_t* pairs = nullptr;  // [pair_count, 3]: first anchor, second anchor, shift
  int32_t pair_count = 0;
  const int32_t* combos = nullptr;  // [combo_count, 2]: key, position
  int32_t combo_count = 0;
  int32_t item_low = 0, item_count = 0, positions = 0, words = 0;
  int64_t group_size = 0;  // 0: fresh data
};

COMPFAST_DEVICE static inline void anchor_sequence(const AnchorStream& s, uint64_t seed,
                                                   uint32_t first_block, uint32_t step,
                                                   uint32_t purpose, int64_t fixed_pair,
                                                   int32_t* tokens, int32_t* target) {
  uint32_t pair = 0, combo = 0;
  const int32_t words = s.positions + 2;
  for (int32_t at = 0; at < words; at += 4) {
    const Block block = philox({{first_block + (uint32_t)at / 4, step, purpose, 0}}, seed);
    COMPFAST_UNROLL(4)  // so that a GPU keeps the words in registers
    for (int32_t w = 0; w < 4; w++) {
      const uint32_t word = block.word[w];
      const int32_t i = at + w;
      if (i == 0)
        pair = fixed_pair >= 0 ? (uint32_t)fixed_pair : below(word, (uint32_t)s.pair_count);
      else if (i == 1)
        combo = below(word, (uint32_t)s.combo_count);
      else if (i < words)
        tokens[i - 2] = s.item_low + (int32_t)below(word, (uint32_t)s.item_count);
    }
  }
  const int32_t key = s.combos[2 * combo], position = s.combos[2 * combo + 1];
  tokens[position] = key;
  tokens[position + 1] = s.pairs[3 * pair];
  tokens[position + 2] = s.pairs[3 * pair + 1];
  *target = key + s.pairs[3 * pair + 2];
}

// Sequences [begin, end) of training step `step` into tokens [batch, T], targets [batch].
COMPFAST_DEVICE static inline void anchor_batch(const AnchorStream& s, uint64_t seed, int64_t step,
                                                int32_t batch, int64_t begin, int64_t end,
                                                int32_t* tokens, int32_t* targets) {
  const uint32_t blocks = (uint32_t)s.words / 4;
  const int64_t total = s.group_size * s.pair_count;
  const int64_t epoch_steps = total / batch;
  for (int64_t b = begin; b < end; b++) {
    int32_t* row = tokens + b * s.positions;
    if (s.group_size == 0) {
      anchor_sequence(s, seed, (uint32_t)b * blocks, (uint32_t)step, TRAIN, -1, row, targets + b);
      continue;
    }
    const uint64_t visit = (uint64_t)((step % epoch_steps) * batch + b);
    const uint64_t j = feistel(seed, (uint32_t)(step / epoch_steps), visit, (uint64_t)total);
    anchor_sequence(s, seed, 0, (uint32_t)j, DRAWN, (int64_t)j / s.group_size, row, targets + b);
  }
}

}  // namespace compfast

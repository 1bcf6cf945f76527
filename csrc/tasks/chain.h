// Training batches of Markov chains (compfast/tasks/markov.py), bit for bit. Words of a sequence:
// the first `order` symbols together, then one for each symbol that follows, the target last.
#pragma once

#include "../philox.h"

namespace compfast {

// Thresholds are cumulative probabilities in units of 2^-30, so that 0 and 1 are exact.
struct ChainStream {
  const int32_t* start = nullptr;  // [contexts - 1]
  const int32_t* next = nullptr;   // [contexts, states - 1]
  int64_t contexts = 0;            // states^order; the newest symbol counts least
  int32_t states = 0, order = 0, positions = 0;
};

static inline int64_t chain_choice(const int32_t* thresholds, int64_t count, uint32_t word) {
  const int32_t u = (int32_t)(word >> 2);
  int64_t i = 0;
  while (i < count && u >= thresholds[i]) i++;
  return i;
}

// One sequence, from block `block` of the step's words on.
static inline void chain_sequence(const ChainStream& s, uint64_t seed, uint32_t step,
                                  uint32_t block, int32_t* tokens, int32_t* target) {
  Block words = philox({{block, step, TRAIN, 0}}, seed);
  int64_t context = chain_choice(s.start, s.contexts - 1, words.word[0]);
  int64_t rest = context;
  for (int32_t i = s.order - 1; i >= 0; i--) {
    tokens[i] = (int32_t)(rest % s.states);
    rest /= s.states;
  }
  for (int32_t at = s.order, w = 1; at <= s.positions; at++, w++) {
    if (w % 4 == 0) words = philox({{block + (uint32_t)w / 4, step, TRAIN, 0}}, seed);
    const int64_t symbol =
        chain_choice(s.next + context * (s.states - 1), s.states - 1, words.word[w % 4]);
    context = (context * s.states + symbol) % s.contexts;
    (at < s.positions ? tokens[at] : *target) = (int32_t)symbol;
  }
}

// Blocks of four words that a sequence owns.
static inline int64_t chain_blocks(const ChainStream& s) {
  return ((int64_t)s.positions - s.order + 5) / 4;
}

// Sequences [begin, end) of training step `step` into tokens [batch, T], targets [batch].
static inline void chain_batch(const ChainStream& s, uint64_t seed, int64_t step, int64_t begin,
                               int64_t end, int32_t* tokens, int32_t* targets) {
  const int64_t blocks = chain_blocks(s);
  for (int64_t b = begin; b < end; b++)
    chain_sequence(s, seed, (uint32_t)step, (uint32_t)(b * blocks), tokens + b * s.positions,
                   targets + b);
}

}  // namespace compfast

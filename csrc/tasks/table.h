// Training batches from a finite set of sequences (compfast/tasks/table.py), bit for bit.
#pragma once

#include <cstring>

#include "../philox.h"

namespace compfast {

struct TableStream {
  const int32_t* tokens = nullptr;   // [rows, positions]
  const int32_t* targets = nullptr;  // [rows, asked]
  const int32_t* order = nullptr;    // [draws] rows, some perhaps several times; null: each once
  int64_t rows = 0, draws = 0;
  int32_t positions = 0, asked = 1;
  int32_t masked = 0;    // 1: a target of -1 asks nothing
  int32_t shuffled = 0;  // 1: each epoch visits all draws once; 0: each sequence takes any
};

// Sequence b owns one block of the step's words, of which it needs the first.
static inline int64_t table_draw(const TableStream& s, uint64_t seed, int64_t step, int32_t batch,
                                 int64_t b) {
  if (s.shuffled == 0) {
    const Block block = philox({{(uint32_t)b, (uint32_t)step, TRAIN, 0}}, seed);
    return below(block.word[0], (uint32_t)s.draws);
  }
  const int64_t epoch_steps = s.draws / batch;
  const uint64_t visit = (uint64_t)((step % epoch_steps) * batch + b);
  return (int64_t)feistel(seed, (uint32_t)(step / epoch_steps), visit, (uint64_t)s.draws);
}

// Sequences [begin, end) of training step `step` into tokens [batch, T], targets [batch, asked].
static inline void table_batch(const TableStream& s, uint64_t seed, int64_t step, int32_t batch,
                               int64_t begin, int64_t end, int32_t* tokens, int32_t* targets) {
  for (int64_t b = begin; b < end; b++) {
    const int64_t drawn = table_draw(s, seed, step, batch, b);
    const int64_t row = s.order ? s.order[drawn] : drawn;
    std::memcpy(tokens + b * s.positions, s.tokens + row * s.positions,
                (size_t)s.positions * sizeof(int32_t));
    std::memcpy(targets + b * s.asked, s.targets + row * s.asked,
                (size_t)s.asked * sizeof(int32_t));
  }
}

}  // namespace compfast

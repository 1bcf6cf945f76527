// Training batches from a finite set of sequences (compfast/tasks/table.py), bit for bit.
#pragma once

#include <cstring>

#include "../philox.h"

namespace compfast {

struct TableStream {
  const int32_t* tokens = nullptr;   // [rows, positions]
  const int32_t* targets = nullptr;  // [rows]
  int64_t rows = 0;
  int32_t positions = 0;
  int32_t shuffled = 0;  // 1: each epoch visits all rows once; 0: each sequence takes any row
};

// Sequence b owns one block of the step's words, of which it needs the first.
static inline int64_t table_row(const TableStream& s, uint64_t seed, int64_t step, int32_t batch,
                                int64_t b) {
  if (s.shuffled == 0) {
    const Block block = philox({{(uint32_t)b, (uint32_t)step, TRAIN, 0}}, seed);
    return below(block.word[0], (uint32_t)s.rows);
  }
  const int64_t epoch_steps = s.rows / batch;
  const uint64_t visit = (uint64_t)((step % epoch_steps) * batch + b);
  return (int64_t)feistel(seed, (uint32_t)(step / epoch_steps), visit, (uint64_t)s.rows);
}

// Sequences [begin, end) of training step `step` into tokens [batch, T], targets [batch].
static inline void table_batch(const TableStream& s, uint64_t seed, int64_t step, int32_t batch,
                               int64_t begin, int64_t end, int32_t* tokens, int32_t* targets) {
  for (int64_t b = begin; b < end; b++) {
    const int64_t row = table_row(s, seed, step, batch, b);
    std::memcpy(tokens + b * s.positions, s.tokens + row * s.positions,
                (size_t)s.positions * sizeof(int32_t));
    targets[b] = s.targets[row];
  }
}

}  // namespace compfast

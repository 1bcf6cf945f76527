// A chain is checked before a symbol is drawn: symbols are indices of token tables, and contexts of
// the thresholds.
#pragma once

#include "../checks.h"
#include "chain.h"

namespace compfast {

// `rows` thresholds of `count` each rise from at least 0 to at most 1 (2^30).
inline void require_thresholds(const char* name, const int32_t* thresholds, int64_t rows,
                               int64_t count) {
  for (int64_t i = 0; i < rows * count; i++) {
    const int64_t least = i % count == 0 ? 0 : thresholds[i - 1];
    require_between(name, thresholds[i], least, int64_t{1} << 30);
  }
}

inline void check_stream(const ChainStream& s, int64_t batch, int64_t vocabulary) {
  require_between("batch", batch, 1, MOST_WIDTH);
  require_between("states of the chain", s.states, 2, vocabulary);
  require_between("seq_len", s.positions, 1, MOST_WIDTH);
  require_between("order of the chain", s.order, 1, s.positions);
  int64_t contexts = 1;
  for (int32_t i = 0; i < s.order && contexts <= MOST_WIDTH; i++) contexts *= s.states;
  if (contexts != s.contexts)
    refuse("the chain has " + std::to_string(s.contexts) + " contexts; states^order is needed");
  elements("batch x blocks of a sequence", {batch, chain_blocks(s)}, MOST_BLOCKS);
  require_thresholds("a threshold of the start", s.start, 1, s.contexts - 1);
  require_thresholds("a threshold of the chain", s.next, s.contexts, s.states - 1);
}

}  // namespace compfast

// A stream of training batches is checked before one is drawn: anchor.h divides by its drawn set,
// and what it draws are indices of token tables.
#pragma once

#include <algorithm>

#include "checks.h"
#include "plan.h"

namespace compfast {

namespace stream_checks {

struct Range {
  int64_t low, high;
};

// Column `column` of a table [count, width].
inline Range column_range(const int32_t* table, int64_t count, int width, int column) {
  Range r{table[column], table[column]};
  for (int64_t i = 1; i < count; i++) {
    const int64_t value = table[i * width + column];
    r = {std::min(r.low, value), std::max(r.high, value)};
  }
  return r;
}

inline void require_range(const char* name, const Range& r, int64_t limit) {
  require_between(name, r.low, 0, limit - 1);
  require_between(name, r.high, 0, limit - 1);
}

}  // namespace stream_checks

// What can be said without reading the tables, which may be a device's.
inline void check_stream_sizes(const AnchorStream& s, int64_t batch) {
  constexpr int64_t most = int64_t{1} << 30;  // three times as many are 32-bit indices
  require_between("batch", batch, 1, most);
  require_between("pairs of the stream", s.pair_count, 1, most);
  require_between("combos of the stream", s.combo_count, 1, most);
  require_between("item_low", s.item_low, 0, most);
  require_between("item_count", s.item_count, 1, most);
  require_between("seq_len", s.positions, 3, most);
  require_between("words", s.words, s.positions + 2, most);
  if (s.words % 4 != 0) refuse("words is " + std::to_string(s.words) + "; it must be 4 x blocks");
  elements("batch x blocks of a sequence", {batch, s.words / 4}, MOST_BLOCKS);
  require_between("group_size", s.group_size, 0, MOST_BLOCKS);
  if (s.group_size == 0) return;
  const int64_t total = elements("group_size x pairs", {s.group_size, s.pair_count}, MOST_BLOCKS);
  if (total < batch)
    refuse("batch is " + std::to_string(batch) + "; the drawn set has " + std::to_string(total) +
           " sequences");
}

// Tokens and targets are at least 0 and below `vocabulary`.
inline void check_stream(const AnchorStream& s, int64_t batch, int64_t vocabulary) {
  using namespace stream_checks;
  check_stream_sizes(s, batch);
  const Range keys = column_range(s.combos, s.combo_count, 2, 0);
  const Range shifts = column_range(s.pairs, s.pair_count, 3, 2);
  require_range("a key", keys, vocabulary);
  require_range("a key's position", column_range(s.combos, s.combo_count, 2, 1), s.positions - 2);
  require_range("an anchor", column_range(s.pairs, s.pair_count, 3, 0), vocabulary);
  require_range("an anchor", column_range(s.pairs, s.pair_count, 3, 1), vocabulary);
  require_range("a target", {keys.low + shifts.low, keys.high + shifts.high}, vocabulary);
  require_range("an item", {s.item_low, (int64_t)s.item_low + s.item_count - 1}, vocabulary);
}

// A step's number is a word of its counter.
inline void check_steps(const char* name, int64_t steps) {
  require_between(name, steps, 0, MOST_BLOCKS);
}

}  // namespace compfast

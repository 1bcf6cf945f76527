// A stream of anchor functions is checked before a batch is drawn: anchor.h divides by its drawn
// set, and what it draws are indices of token tables.
#pragma once

#include "../checks.h"
#include "anchor.h"

namespace compfast {

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
  check_stream_sizes(s, batch);
  const Range keys = range_of(s.combos, s.combo_count, 2);
  const Range shifts = range_of(s.pairs + 2, s.pair_count, 3);
  require_range("a key", keys, vocabulary);
  require_range("a key's position", range_of(s.combos + 1, s.combo_count, 2), s.positions - 2);
  require_range("an anchor", range_of(s.pairs, s.pair_count, 3), vocabulary);
  require_range("an anchor", range_of(s.pairs + 1, s.pair_count, 3), vocabulary);
  require_range("a target", {keys.low + shifts.low, keys.high + shifts.high}, vocabulary);
  require_range("an item", {s.item_low, (int64_t)s.item_low + s.item_count - 1}, vocabulary);
}

}  // namespace compfast

// A table is checked before a row is drawn: table.h divides by its batches, and its rows are
// indices of token tables.
#pragma once

#include "../checks.h"
#include "table.h"

namespace compfast {

inline void check_stream(const TableStream& s, int64_t batch, int64_t vocabulary) {
  require_between("batch", batch, 1, MOST_WIDTH);
  require_between("rows of the table", s.rows, 1, MOST_WIDTH);
  require_between("positions of the table", s.positions, 1, MOST_WIDTH);
  require_between("draws of the table", s.draws, 1, MOST_WIDTH);
  require_between("shuffled", s.shuffled, 0, 1);
  if (s.shuffled == 1 && s.draws < batch)
    refuse("batch is " + std::to_string(batch) + "; the table has " + std::to_string(s.draws) +
           " rows");
  require_range("a token of the table", range_of(s.tokens, s.rows * s.positions), vocabulary);
  require_targets("a target of the table", range_of(s.targets, s.rows * s.asked), s.masked == 1,
                  vocabulary);
  if (s.order) require_range("a row of the order", range_of(s.order, s.draws), s.rows);
}

}  // namespace compfast

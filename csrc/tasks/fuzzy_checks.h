// A fuzzy task is checked before a value is drawn: bits of a term are its variables.
#pragma once

#include "../checks.h"
#include "fuzzy.h"

namespace compfast {

inline void check_stream(const FuzzyStream& s, int64_t batch) {
  require_between("batch", batch, 1, MOST_WIDTH);
  require_between("variables", s.variables, 1, 30);
  require_between("terms of a combination", s.terms, 1, MOST_WIDTH);
  require_between("combinations", s.combination_count, 1, MOST_WIDTH);
  require_between("product", s.product, 0, 1);
  require_between("seq_len", s.positions, 1, MOST_WIDTH);
  elements("batch x blocks of a sequence", {batch, fuzzy_blocks(s)}, MOST_BLOCKS);
  require_range("a term", range_of(s.combinations, s.combination_count * s.terms),
                int64_t{1} << s.variables);
}

}  // namespace compfast

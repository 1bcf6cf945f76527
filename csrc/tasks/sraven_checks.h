// Raven matrices are checked before one is drawn: symbols are columns of the vectors, and
// permutations index the features.
#pragma once

#include "../checks.h"
#include "sraven.h"

namespace compfast {

inline void check_stream(const SravenStream& s, int64_t batch, int64_t vocabulary) {
  require_between("batch", batch, 1, MOST_WIDTH);
  require_between("features", s.features, 1, SRAVEN_MOST_FEATURES);
  require_between("symbols", s.symbols, 3, std::min<int64_t>(vocabulary, 1024));
  require_between("permuted", s.permuted, 0, 1);
  require_between("sets of rules", s.set_count, 1, MOST_WIDTH);
  require_between("permutations", s.permutation_count, 1, MOST_WIDTH);
  require_between("triples", s.triple_count, 1, MOST_WIDTH);
  elements("batch x blocks of a sequence", {batch, sraven_blocks(s)}, MOST_BLOCKS);
  require_range("a rule", range_of(s.rules, s.set_count * s.features), SRAVEN_RULES);
  require_range("a feature of a permutation",
                range_of(s.permutations, s.permutation_count * s.features), s.features);
  require_range("a symbol of a triple", range_of(s.triples, s.triple_count * 3), s.symbols);
}

}  // namespace compfast

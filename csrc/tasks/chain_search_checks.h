// Chain search is checked before a sequence is drawn: of every remainder there must be as many
// items as a sequence has nodes, and items are indices of token tables.
#pragma once

#include "../checks.h"
#include "chain_search.h"

namespace compfast {

inline void check_stream(const ChainSearchStream& s, int64_t batch, int64_t vocabulary) {
  require_between("batch", batch, 1, MOST_WIDTH);
  require_between("chains", s.chains, 1, CHAIN_SEARCH_NODES);
  require_between("links", s.links, 1, CHAIN_SEARCH_NODES);
  require_between("order", s.order, 1, s.links);
  require_between("named", s.named, 0, 1);
  require_between("to_end", s.to_end, 0, 1);
  require_between("wrong_links", s.wrong_links, 0, 1);
  require_between("modulus", s.modulus, 2, CHAIN_SEARCH_MODULUS);
  require_between("steps", s.step_count, 1, s.modulus);
  require_range("a step", range_of(s.steps, s.step_count), s.modulus);
  require_between("item_count", s.item_count, s.modulus, CHAIN_SEARCH_ITEMS);
  require_between("nodes of a sequence", chain_search_nodes(s), 2,
                  std::min(s.item_count / s.modulus, CHAIN_SEARCH_NODES));
  require_between("item_low", s.item_low, 0, vocabulary - s.item_count);
  if (s.named != 0) require_between("order", s.order, 1, vocabulary - 1);
  elements("batch x blocks of a sequence", {batch, chain_search_blocks(s)}, MOST_BLOCKS);
}

}  // namespace compfast

// Where training batches come from: one record of each kind, and the kind that counts. A task with
// a generator of its own is a header here, a record in TaskStream and a line in draw().
#pragma once

#include "../batch.h"
#include "anchor.h"
#include "chain.h"
#include "chain_search.h"
#include "fuzzy.h"
#include "host.h"
#include "hyperteacher.h"
#include "sraven.h"
#include "table.h"

namespace compfast {

enum StreamKind : int32_t {
  STREAM_ANCHOR = 0,
  STREAM_TABLE = 1,
  STREAM_HOST = 2,
  STREAM_CHAIN = 3,
  STREAM_FUZZY = 4,
  STREAM_SRAVEN = 5,
  STREAM_HYPERTEACHER = 6,
  STREAM_CHAIN_SEARCH = 7
};

struct TaskStream {
  int32_t kind = STREAM_ANCHOR;
  AnchorStream anchor;
  TableStream table;
  HostStream host;
  ChainStream chain;
  FuzzyStream fuzzy;
  SravenStream sraven;
  HyperteacherStream hyperteacher;
  ChainSearchStream chain_search;
};

// Sequences [begin, end) of training step `step` of the member in row `row` of its group, into
// their places in a batch.
static inline void draw(const TaskStream& s, uint64_t seed, int64_t row, int64_t step,
                        int32_t batch, int64_t begin, int64_t end, const Batch& to) {
  if (s.kind == STREAM_ANCHOR)
    anchor_batch(s.anchor, seed, step, batch, begin, end, to.tokens, to.targets);
  else if (s.kind == STREAM_TABLE)
    table_batch(s.table, seed, step, batch, begin, end, to.tokens, to.targets);
  else if (s.kind == STREAM_CHAIN)
    chain_batch(s.chain, seed, step, begin, end, to.tokens, to.targets);
  else if (s.kind == STREAM_CHAIN_SEARCH)
    chain_search_batch(s.chain_search, seed, step, begin, end, to.tokens, to.targets);
  else if (s.kind == STREAM_FUZZY)
    fuzzy_batch(s.fuzzy, seed, step, begin, end, to.vectors, to.answers);
  else if (s.kind == STREAM_SRAVEN)
    sraven_batch(s.sraven, seed, step, begin, end, to.vectors, to.targets);
  else if (s.kind == STREAM_HYPERTEACHER)
    hyperteacher_batch(s.hyperteacher, seed, step, begin, end, to.vectors, to.answers);
  else
    host_batch(s.host, row, step, begin, end, to);
}

}  // namespace compfast

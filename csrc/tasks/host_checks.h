// Batches that Python drew are checked before they are trained on: their values are indices of
// token tables, and a step that is not among them would be read outside of the buffer.
#pragma once

#include "../checks.h"
#include "host.h"

namespace compfast {

inline void check_stream(const HostStream& s, int64_t batch, int64_t vocabulary) {
  require_between("batch of the buffer", s.batch, batch, batch);
  require_between("positions of the buffer", s.ports.positions, 1, MOST_WIDTH);
  require_between("slots of the buffer", s.slots, 1, MOST_WIDTH);
  require_between("members of the buffer", s.members, 1, MOST_ELEMENTS);
  require_between("first", s.first, 0, MOST_BLOCKS);
  require_range("a slot", range_of(s.slot, s.members), s.slots);
  const int64_t sequences = s.slots * s.steps * s.batch;
  if (sequences == 0) return;
  const int64_t inputs = sequences * input_count(s.ports),
                targets = sequences * target_count(s.ports);
  if (s.drawn.tokens)
    require_range("a token of the buffer", range_of(s.drawn.tokens, inputs), vocabulary);
  if (s.drawn.targets)
    require_targets("a target of the buffer", range_of(s.drawn.targets, targets),
                    s.ports.masked == 1, vocabulary);
}

// The steps [from, until) of the member in row `row` are in the buffer.
inline void check_steps(const HostStream& s, int64_t row, int64_t from, int64_t until) {
  if (row < 0 || row >= s.members)
    refuse("member is " + std::to_string(row) + "; the buffer has " + std::to_string(s.members));
  if (from < s.first || until > s.first + s.steps)
    refuse("steps " + std::to_string(from) + " to " + std::to_string(until) + " of member " +
           std::to_string(row) + " are asked for; the buffer holds " + std::to_string(s.first) +
           " to " + std::to_string(s.first + s.steps));
}

}  // namespace compfast

// A hyperteacher is checked before a value is drawn: its sizes are those of arrays on the stack.
#pragma once

#include <cmath>

#include "../checks.h"
#include "hyperteacher.h"

namespace compfast {

inline void check_stream(const HyperteacherStream& s, int64_t batch) {
  require_between("batch", batch, 1, MOST_WIDTH);
  require_between("modules", s.modules, 1, HYPERTEACHER_MOST_MODULES);
  require_between("hidden", s.hidden, 1, NORM_MOST);
  require_between("dim", s.dim, 1, NORM_MOST);
  require_between("masks", s.mask_count, 1, MOST_WIDTH);
  require_between("discrete", s.discrete, 0, 1);
  require_between("tanh", s.tanh, 0, 1);
  require_between("samples", s.samples, 1, MOST_WIDTH - 1);
  require_between("extra", s.extra, 0, 1);
  elements("batch x blocks of a sequence", {batch, hyperteacher_blocks(s)}, MOST_BLOCKS);
  require_range("a mask's entry", range_of(s.masks, s.mask_count * s.modules), 2);
  for (int64_t row = 0; row < s.mask_count; row++) {
    const int32_t* mask = s.masks + row * s.modules;
    if (std::count(mask, mask + s.modules, 1) == 0) refuse("a mask has no module");
  }
  for (int64_t i = 0; i < (int64_t)s.modules * s.hidden * s.dim; i++)
    if (!std::isfinite(s.theta[i])) refuse("a module has a number that is not finite");
}

}  // namespace compfast

// Training batches that Python drew ahead (compfast/engines/host_batches.py).
#pragma once

#include <cstdint>
#include <cstring>

namespace compfast {

struct HostStream {
  const int32_t* tokens = nullptr;   // [slots, steps, batch, positions]
  const int32_t* targets = nullptr;  // [slots, steps, batch]
  const int32_t* slot = nullptr;     // [members]: members of one seed share theirs
  int64_t members = 0, slots = 0, steps = 0;
  int64_t first = 0;  // the step of the first batch
  int32_t batch = 0, positions = 0;
};

// Sequences [begin, end) of training step `step` into tokens [batch, T], targets [batch]; the step
// is in the buffer (host_checks.h).
static inline void host_batch(const HostStream& s, int64_t row, int64_t step, int64_t begin,
                              int64_t end, int32_t* tokens, int32_t* targets) {
  const int64_t from = (s.slot[row] * s.steps + step - s.first) * s.batch + begin;
  std::memcpy(tokens + begin * s.positions, s.tokens + from * s.positions,
              (size_t)((end - begin) * s.positions) * sizeof(int32_t));
  std::memcpy(targets + begin, s.targets + from, (size_t)(end - begin) * sizeof(int32_t));
}

}  // namespace compfast

// Training batches that Python drew ahead (compfast/engines/host_batches.py).
#pragma once

#include <cstdint>
#include <cstring>

#include "../batch.h"

namespace compfast {

struct HostStream {
  Given drawn;                    // [slots, steps, batch, ..]
  const int32_t* slot = nullptr;  // [members]: members of one seed share theirs
  int64_t members = 0, slots = 0, steps = 0;
  int64_t first = 0;  // the step of the first batch
  int32_t batch = 0;
  Ports ports;
};

template <typename T>
static inline void host_copy(const T* from, T* to, int64_t each, int64_t first, int64_t begin,
                             int64_t end) {
  if (from)
    std::memcpy(to + begin * each, from + (first + begin) * each,
                (size_t)((end - begin) * each) * sizeof(T));
}

// Sequences [begin, end) of training step `step`; the step is in the buffer (host_checks.h).
static inline void host_batch(const HostStream& s, int64_t row, int64_t step, int64_t begin,
                              int64_t end, const Batch& to) {
  const int64_t first = (s.slot[row] * s.steps + step - s.first) * s.batch;
  host_copy(s.drawn.tokens, to.tokens, input_count(s.ports), first, begin, end);
  host_copy(s.drawn.vectors, to.vectors, input_count(s.ports), first, begin, end);
  host_copy(s.drawn.targets, to.targets, target_count(s.ports), first, begin, end);
  host_copy(s.drawn.answers, to.answers, target_count(s.ports), first, begin, end);
}

}  // namespace compfast

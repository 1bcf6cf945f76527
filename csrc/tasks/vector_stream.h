// Where training batches of vectors come from: one record of each kind, and the kind that counts.
#pragma once

#include "fuzzy.h"
#include "hyperteacher.h"
#include "sraven.h"

namespace compfast {

enum VectorKind : int32_t { VECTORS_FUZZY = 0, VECTORS_SRAVEN = 1, VECTORS_HYPERTEACHER = 2 };

struct VectorStream {
  int32_t kind = VECTORS_FUZZY;
  FuzzyStream fuzzy;
  SravenStream sraven;
  HyperteacherStream hyperteacher;
};

// Sequences [begin, end) of training step `step` into vectors [batch, T, width] and, by what the
// task asks for, values [batch, asked, outputs] or targets [batch, asked].
static inline void draw_vectors(const VectorStream& s, uint64_t seed, int64_t step, int64_t begin,
                                int64_t end, float* vectors, float* values, int32_t* targets) {
  if (s.kind == VECTORS_FUZZY)
    fuzzy_batch(s.fuzzy, seed, step, begin, end, vectors, values);
  else if (s.kind == VECTORS_SRAVEN)
    sraven_batch(s.sraven, seed, step, begin, end, vectors, targets);
  else
    hyperteacher_batch(s.hyperteacher, seed, step, begin, end, vectors, values);
}

}  // namespace compfast

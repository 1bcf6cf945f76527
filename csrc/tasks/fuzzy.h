// Training batches of fuzzy logic (compfast/tasks/fuzzy.py), bit for bit. Words of a sequence: its
// combination of terms, then the variables, example by example.
#pragma once

#include "words.h"

namespace compfast {

struct FuzzyStream {
  const int32_t* combinations = nullptr;  // [combination_count, terms]
  int64_t combination_count = 0;
  int32_t terms = 0, variables = 0;
  int32_t product = 0;  // 1: a b and 1 - (1 - a) (1 - b); 0: min and max
  int32_t positions = 0;
};

// f(x) of `terms` terms; bit L - 1 - l of a term is 0 where it negates variable l.
static inline float fuzzy_value(const FuzzyStream& s, const int32_t* chosen, const float* x) {
  float result = 0.0f;
  for (int32_t k = 0; k < s.terms; k++) {
    float holds = 0.0f;
    for (int32_t l = 0; l < s.variables; l++) {
      const float literal = chosen[k] >> (s.variables - 1 - l) & 1 ? x[l] : 1.0f - x[l];
      if (l == 0)
        holds = literal;
      else if (s.product != 0)
        holds = holds * literal;
      else
        holds = literal < holds ? literal : holds;
    }
    if (k == 0)
      result = holds;
    else if (s.product != 0)
      result = 1.0f - (1.0f - result) * (1.0f - holds);
    else
      result = holds > result ? holds : result;
  }
  return result;
}

// Blocks of four words that a sequence owns.
static inline int64_t fuzzy_blocks(const FuzzyStream& s) {
  return ((int64_t)s.positions * s.variables + 4) / 4;
}

// Sequences [begin, end) of training step `step` into vectors [batch, T, variables + 1] and answers
// [batch, 1, 1].
static inline void fuzzy_batch(const FuzzyStream& s, uint64_t seed, int64_t step, int64_t begin,
                               int64_t end, float* vectors, float* answers) {
  const int64_t width = s.variables + 1;
  for (int64_t b = begin; b < end; b++) {
    Words words = words_of(seed, step, b, fuzzy_blocks(s));
    const uint32_t row = below(next_word(words), (uint32_t)s.combination_count);
    const int32_t* chosen = s.combinations + (int64_t)row * s.terms;
    float* x = vectors + b * s.positions * width;
    for (int32_t i = 0; i < s.positions; i++, x += width) {
      for (int32_t l = 0; l < s.variables; l++) x[l] = uniform(next_word(words));
      x[s.variables] = fuzzy_value(s, chosen, x);
    }
    answers[b] = x[-1];
    x[-1] = 0.0f;
  }
}

}  // namespace compfast

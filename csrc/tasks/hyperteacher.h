// Training batches of the hyperteacher (compfast/tasks/hyperteacher.py), bit for bit. Words of a
// sequence: its mask, an exponential for each module, then x by x.
#pragma once

#include <cstring>

#include "../fixedcurves.h"
#include "../fixedmath.h"
#include "operator_norm.h"
#include "words.h"

namespace compfast {

constexpr int32_t HYPERTEACHER_MOST_MODULES = 32;

struct HyperteacherStream {
  const int32_t* masks = nullptr;  // [mask_count, modules]
  int64_t mask_count = 0;
  const double* theta = nullptr;   // [modules, hidden, dim]
  const float* readout = nullptr;  // [hidden]
  int32_t modules = 0, hidden = 0, dim = 0;
  int32_t discrete = 0;  // 1: a code is 1 / K of the K active modules
  int32_t tanh = 0;      // 1: GELU's tanh form
  int32_t samples = 0;
  int32_t extra = 0;  // 1: an empty token follows
};

// z [modules], 0 for those that the mask leaves out; an exponential is drawn for each.
static inline void hyperteacher_code(const HyperteacherStream& s, const int32_t* mask, Words& words,
                                     double* z) {
  double total = 0.0;
  int32_t active = 0;
  for (int32_t m = 0; m < s.modules; m++) {
    const uint32_t word = next_word(words);
    active += mask[m];
    z[m] = 0.0;
    if (mask[m] != 0 && s.discrete == 0) z[m] = -fixed_log(((double)word + 0.5) * 0x1p-32);
    total += z[m];
  }
  for (int32_t m = 0; m < s.modules; m++) {
    if (mask[m] == 0) continue;
    z[m] = s.discrete != 0 ? 1.0 / (double)active : 0.5 * (z[m] / total + 1.0);
  }
}

// The transpose [dim, hidden] of W = sum_m z_m theta_m over its operator norm.
static inline void hyperteacher_mix(const HyperteacherStream& s, const double* z, float* turned) {
  double w[NORM_MOST * NORM_MOST];
  const int32_t size = s.hidden * s.dim;
  std::memset(w, 0, (size_t)size * sizeof *w);
  for (int32_t m = 0; m < s.modules; m++) {
    if (z[m] == 0.0) continue;
    const double* theta = s.theta + (int64_t)m * size;
    for (int32_t i = 0; i < size; i++) w[i] = w[i] + z[m] * theta[i];
  }
  const double scale = 1.0 / operator_norm(w, s.hidden, s.dim);
  for (int32_t j = 0; j < s.hidden; j++)
    for (int32_t k = 0; k < s.dim; k++)
      turned[k * s.hidden + j] = (float)(w[j * s.dim + k] * scale);
}

static inline float hyperteacher_value(const HyperteacherStream& s, const float* turned,
                                       const float* x) {
  float hidden[NORM_MOST];
  const int32_t size = s.hidden;
  std::memset(hidden, 0, (size_t)size * sizeof *hidden);
  for (int32_t k = 0; k < s.dim; k++)
    for (int32_t j = 0; j < size; j++) hidden[j] = hidden[j] + turned[k * size + j] * x[k];
  if (s.tanh != 0)
    for (int32_t j = 0; j < size; j++) {
      const float h = hidden[j];
      const float inner = 0.7978845608028654f * (h + 0.044715f * ((h * h) * h));
      hidden[j] = (0.5f * h) * (1.0f + fixed_tanh(inner));
    }
  else
    for (int32_t j = 0; j < size; j++) {
      const float h = hidden[j];
      hidden[j] = (0.5f * h) * (1.0f + fixed_erf(h * 0.70710678118654752f));
    }
  float y = 0.0f;
  for (int32_t j = 0; j < size; j++) y = y + s.readout[j] * hidden[j];
  return y;
}

// Blocks of four words that a sequence owns.
static inline int64_t hyperteacher_blocks(const HyperteacherStream& s) {
  return (1 + (int64_t)s.modules + (int64_t)s.samples * s.dim + 3) / 4;
}

// Sequences [begin, end) of training step `step` into vectors [batch, T, dim + 1] and answers
// [batch, 1, 1].
static inline void hyperteacher_batch(const HyperteacherStream& s, uint64_t seed, int64_t step,
                                      int64_t begin, int64_t end, float* vectors, float* answers) {
  const int64_t width = s.dim + 1, positions = s.samples + s.extra;
  double z[HYPERTEACHER_MOST_MODULES];
  float turned[NORM_MOST * NORM_MOST];
  for (int64_t b = begin; b < end; b++) {
    Words words = words_of(seed, step, b, hyperteacher_blocks(s));
    const int64_t row = below(next_word(words), (uint32_t)s.mask_count);
    hyperteacher_code(s, s.masks + row * s.modules, words, z);
    hyperteacher_mix(s, z, turned);
    float* x = vectors + b * positions * width;
    for (int32_t i = 0; i < s.samples; i++, x += width) {
      for (int32_t k = 0; k < s.dim; k++)
        x[k] = (2.0f * uniform(next_word(words)) - 1.0f) * 1.7320508075688772f;
      x[s.dim] = hyperteacher_value(s, turned, x);
    }
    answers[b] = x[-1];
    x[-1] = 0.0f;
    if (s.extra != 0) std::memset(x, 0, (size_t)width * sizeof *x);
  }
}

}  // namespace compfast

// Sequences of a batch: token ids [B, T] or vectors [B, T, width] in, target ids [B, asked] or
// answers, numbers [B, asked, vocabulary], asked for. What a task does not have is null.
#pragma once

#include <cstdint>

namespace compfast {

struct Batch {
  int32_t* tokens = nullptr;
  float* vectors = nullptr;
  int32_t* targets = nullptr;
  float* answers = nullptr;
};

// What goes into a network and what is asked of it (compfast/config/ports.py).
struct Ports {
  int32_t positions = 0;  // T
  int32_t width = 0;      // numbers a position of vectors; 0: token ids
  int32_t asked = 1;      // last positions with a target
  int32_t vocabulary = 0;
  int32_t numbers = 0;  // 1: answers are numbers
  int32_t masked = 0;   // 1: a target of -1 asks nothing
};

struct Given {
  const int32_t* tokens = nullptr;
  const float* vectors = nullptr;
  const int32_t* targets = nullptr;
  const float* answers = nullptr;
};

// Ids or numbers of one sequence. Functions, not members: one instruction set's code must not stand
// in for another's (kernels.cpp).
static inline int64_t input_count(const Ports& p) {
  return (int64_t)p.positions * (p.width ? p.width : 1);
}

static inline int64_t target_count(const Ports& p) {
  return (int64_t)p.asked * (p.numbers ? p.vocabulary : 1);
}

static inline Given given(const Batch& b) { return {b.tokens, b.vectors, b.targets, b.answers}; }

// From sequence `s` on.
static inline Given from(const Ports& ports, const Given& all, int64_t s) {
  Given g = all;
  if (g.tokens) g.tokens += s * input_count(ports);
  if (g.vectors) g.vectors += s * input_count(ports);
  if (g.targets) g.targets += s * target_count(ports);
  if (g.answers) g.answers += s * target_count(ports);
  return g;
}

}  // namespace compfast

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
  // Of a ragged microbatch, the first row of each sequence and where the last one ends, [n + 1];
  // null: every sequence has all its rows.
  const int32_t* starts = nullptr;
};

// Ids or numbers of one sequence. Functions, not members: one instruction set's code must not stand
// in for another's (kernels.cpp).
static inline int64_t input_count(const Ports& p) {
  return (int64_t)p.positions * (p.width ? p.width : 1);
}

static inline int64_t target_count(const Ports& p) {
  return (int64_t)p.asked * (p.numbers ? p.vocabulary : 1);
}

static inline Given given(const Batch& b) {
  return {b.tokens, b.vectors, b.targets, b.answers, nullptr};
}

// From sequence `s` on.
static inline Given from(const Ports& ports, const Given& all, int64_t s) {
  Given g = all;
  if (g.tokens) g.tokens += s * input_count(ports);
  if (g.vectors) g.vectors += s * input_count(ports);
  if (g.targets) g.targets += s * target_count(ports);
  if (g.answers) g.answers += s * target_count(ports);
  return g;
}

// Where sequence `s` begins in a buffer of `rows` rows a sequence, how many rows it has there, and
// how many `n` sequences have together.
static inline int64_t first_row(const Given& b, int64_t s, int64_t rows) {
  return b.starts ? b.starts[s] : s * rows;
}

static inline int64_t row_count(const Given& b, int64_t s, int64_t rows) {
  return b.starts ? b.starts[s + 1] - b.starts[s] : rows;
}

// Rows of a sequence up to its last target; 0: it asks nothing.
static inline int32_t asked_length(const Ports& ports, const int32_t* targets) {
  int32_t length = ports.asked;
  while (length > 0 && targets[length - 1] < 0) length--;
  return length;
}

// Sequences of a ragged microbatch, from `b` on and at most `most`, whose rows fit into `room`;
// their starts go to `starts` [room + 1].
static inline int64_t fill_rows(const Ports& ports, const Given& b, int64_t most, int64_t room,
                                int32_t* starts) {
  int64_t n = 0;
  starts[0] = 0;
  for (; n < most && n < room; n++) {
    const int32_t length = asked_length(ports, b.targets + n * ports.asked);
    if (starts[n] + length > room) break;
    starts[n + 1] = starts[n] + length;
  }
  return n;
}

}  // namespace compfast

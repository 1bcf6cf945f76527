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
  int64_t inputs() const { return (int64_t)positions * (width ? width : 1); }
  int64_t targets() const { return (int64_t)asked * (numbers ? vocabulary : 1); }
};

struct Given {
  const int32_t* tokens = nullptr;
  const float* vectors = nullptr;
  const int32_t* targets = nullptr;
  const float* answers = nullptr;

  Given() = default;
  Given(const Batch& b)
      : tokens(b.tokens), vectors(b.vectors), targets(b.targets), answers(b.answers) {}

  // From sequence `s` on.
  Given from(const Ports& ports, int64_t s) const {
    Given g = *this;
    if (tokens) g.tokens += s * ports.inputs();
    if (vectors) g.vectors += s * ports.inputs();
    if (targets) g.targets += s * ports.targets();
    if (answers) g.answers += s * ports.targets();
    return g;
  }
};

}  // namespace compfast

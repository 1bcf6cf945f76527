// Loops that do nothing but what they measure: the ceilings of one instruction set.
#pragma once

#include <cstdint>

namespace compfast {

struct LoopTable {
  // `rounds` rounds of independent multiply-adds; each returns a value that depends on all.
  float (*fma)(int64_t rounds);
  // bfloat16 pairs into float32; null where the instruction set has no such instruction.
  float (*dot_bf16)(int64_t rounds);
  // Reads data [floats] `passes` times; floats is a multiple of `read_step`.
  float (*read)(const float* data, int64_t floats, int64_t passes);
  double fma_flops, dot_bf16_flops;  // of one round
  int64_t read_step;
};

}  // namespace compfast

// The loops of loop_table.h. CHAINS independent accumulators hide an instruction's latency (4 or 5
// cycles, 2 a cycle) and fit the register file beside two operands.
#pragma once

#include "bf16.h"
#include "loop_table.h"
#include "simd.h"

namespace {
namespace loops {

#if COMPFAST_WIDTH == 16 || defined(__aarch64__)
constexpr int CHAINS = 24;  // of 32 registers
#else
constexpr int CHAINS = 12;  // of 16 registers
#endif

inline float total(const vf* sums) {
  vf sum = vf{};
  for (int i = 0; i < CHAINS; i++) sum += sums[i];
  return sum_lanes(sum)[0];
}

// Chains that began alike would be one chain to the compiler.
inline void start(vf* x) {
  for (int i = 0; i < CHAINS; i++) x[i] = splat(1.0f + (float)i / 64);
}

// x = x a + b stays near b / (1 - a) = 1: neither overflow nor subnormals on the way. The product
// is part of the chain, so that a build without FMA cannot take it out of the loop.
inline float fma_rounds(int64_t rounds) {
  vf x[CHAINS];
  start(x);
  const vf a = splat(0.875f), b = splat(0.125f);
  for (int64_t r = 0; r < rounds; r++)
#pragma GCC unroll 24
    for (int i = 0; i < CHAINS; i++) x[i] = fma(x[i], a, b);
  return total(x);
}

#if defined(__AVX512BF16__) && COMPFAST_WIDTH == 16
inline float dot_rounds(int64_t rounds) {
  vf x[CHAINS];
  start(x);
  const vu a = pair(splat(0.5f), splat(-0.5f)), b = pair(splat(0.75f), splat(0.625f));
  for (int64_t r = 0; r < rounds; r++)
#pragma GCC unroll 24
    for (int i = 0; i < CHAINS; i++) x[i] = multiply_add(a, b, x[i]);
  return total(x);
}
constexpr auto DOT = dot_rounds;
#else
constexpr float (*DOT)(int64_t) = nullptr;
#endif

constexpr int READS = 8;

inline float read_passes(const float* data, int64_t floats, int64_t passes) {
  vf x[CHAINS] = {};
  for (int64_t p = 0; p < passes; p++)
    for (int64_t i = 0; i < floats; i += READS * W)
#pragma GCC unroll 8
      for (int j = 0; j < READS; j++) x[j] += load(data + i + j * W);
  return total(x);
}

constexpr compfast::LoopTable TABLE = {
    fma_rounds, DOT, read_passes, 2.0 * CHAINS * W, 4.0 * CHAINS * W, READS * W,
};

}  // namespace loops
}  // namespace

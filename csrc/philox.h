// Philox4x32-10 (Salmon et al. 2011) and the streams of compfast/streams/philox.py, bit for bit.
#pragma once

#include <cstdint>

#include "device.h"

namespace compfast {

enum Purpose : uint32_t { INIT = 0, TRAIN = 1, EVAL = 2, DROPOUT = 3, AUX = 4, DRAWN = 5 };

struct Block {
  uint32_t word[4];
};

COMPFAST_DEVICE static inline Block philox(Block c, uint64_t seed) {
  uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
  for (int round = 0; round < 10; round++) {
    const uint64_t p0 = (uint64_t)0xD2511F53u * c.word[0];
    const uint64_t p1 = (uint64_t)0xCD9E8D57u * c.word[2];
    c = {{(uint32_t)(p1 >> 32) ^ c.word[1] ^ k0, (uint32_t)p1,
          (uint32_t)(p0 >> 32) ^ c.word[3] ^ k1, (uint32_t)p0}};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

COMPFAST_DEVICE static inline uint32_t below(uint32_t word, uint32_t n) {
  return (uint32_t)(((uint64_t)word * n) >> 32);
}

// A keyed permutation of [0, n): six Feistel rounds on an even number of bits, cycle-walked.
COMPFAST_DEVICE static inline uint64_t feistel(uint64_t seed, uint32_t epoch, uint64_t index,
                                               uint64_t n) {
  uint32_t bits = 2;
  while (bits < 62 && ((uint64_t)1 << bits) < n) bits += 2;
  const uint32_t half = bits / 2;
  const uint32_t mask = (uint32_t)(((uint64_t)1 << half) - 1);
  do {
    uint32_t left = (uint32_t)(index >> half), right = (uint32_t)index & mask;
    for (uint32_t round = 0; round < 6; round++) {
      const Block f = philox({{right, epoch, AUX, round}}, seed);
      const uint32_t next = left ^ (f.word[0] & mask);
      left = right;
      right = next;
    }
    index = ((uint64_t)left << half) | right;
  } while (index >= n);
  return index;
}

}  // namespace compfast

// What comes in through the bindings is checked before a kernel divides by it, indexes with it or
// allocates from it: std::invalid_argument (ValueError) with one sentence, std::bad_alloc
// (MemoryError) for what no memory holds. Once a call, never a step.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <new>
#include <stdexcept>
#include <string>

namespace compfast {

// Elements of one tensor, floats of one area. Sums and small multiples of such numbers fit in 63
// bits, and no address space of 47 bits holds as many floats.
constexpr int64_t MOST_ELEMENTS = int64_t{1} << 45;
constexpr int64_t MOST_WIDTH = std::numeric_limits<int32_t>::max() - 64;  // padded, it still fits
constexpr int64_t MOST_BLOCKS = int64_t{1} << 32;  // of a stream; also its steps, and a drawn set

[[noreturn]] inline void refuse(const std::string& sentence) {
  throw std::invalid_argument(sentence);
}

inline void require_between(const char* name, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high)
    refuse(std::string(name) + " is " + std::to_string(value) + "; it must be in " +
           std::to_string(low) + ".." + std::to_string(high));
}

struct Range {
  int64_t low, high;
};

// Of `count` >= 1 values, each `stride` after the last.
inline Range range_of(const int32_t* values, int64_t count, int64_t stride = 1) {
  int32_t low = values[0], high = values[0];
  for (int64_t i = 1; i < count; i++) {
    low = std::min(low, values[i * stride]);
    high = std::max(high, values[i * stride]);
  }
  return {low, high};
}

// Both ends in [0, limit).
inline void require_range(const char* name, const Range& r, int64_t limit) {
  require_between(name, r.low, 0, limit - 1);
  require_between(name, r.high, 0, limit - 1);
}

// Both ends in [0, limit), or -1 where targets have a mask.
inline void require_targets(const char* name, const Range& r, bool masked, int64_t limit) {
  require_between(name, r.low, masked ? -1 : 0, limit - 1);
  require_between(name, r.high, masked ? -1 : 0, limit - 1);
}

inline void require_threads(int threads) {
  require_between("threads", threads, 1, std::numeric_limits<int32_t>::max());
}

// a * b for a, b >= 0, or a number that is far too large for everything.
inline int64_t times(int64_t a, int64_t b) {
  constexpr int64_t most = int64_t{1} << 60;
  int64_t product = 0;
  return __builtin_mul_overflow(a, b, &product) || product > most ? most : product;
}

// The product of sizes that must all be positive.
inline int64_t elements(const char* name, std::initializer_list<int64_t> sizes,
                        int64_t most = MOST_ELEMENTS) {
  int64_t count = 1;
  std::string shown;
  for (int64_t size : sizes) {
    require_between(name, size, 1, most);
    count = times(count, size);
  }
  if (count <= most) return count;
  for (int64_t size : sizes) shown += (shown.empty() ? "" : " x ") + std::to_string(size);
  refuse(std::string(name) + " is " + shown + "; it must be at most " + std::to_string(most));
}

// Bytes of memory that this machine has.
inline int64_t machine_bytes() {
  static const int64_t bytes = [] {
    const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    if (pages <= 0 || page <= 0) return std::numeric_limits<int64_t>::max();
    return times(pages, page);
  }();
  return bytes;
}

// std::bad_alloc where the whole machine has no room for `count` things of `size` bytes: a system
// that promises more memory than it has would end the process later.
inline void require_room(int64_t count, int64_t size) {
  if (count < 0 || count > machine_bytes() / size) throw std::bad_alloc();
}

}  // namespace compfast

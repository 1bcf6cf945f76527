// Where a step's time goes, by op record: counters that a workspace may carry. A null pointer is
// tested once an op and microbatch (a few hundred tests beside 10^5 to 10^7 operations); what is
// computed is the same code either way.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <x86intrin.h>
#elif !defined(__aarch64__)
#include <time.h>
#endif

#include "plan.h"

namespace {

// Steady, of unknown unit; the caller compares it with a clock.
inline int64_t ticks() {
#if defined(__x86_64__)
  return (int64_t)__rdtsc();
#elif defined(__aarch64__)
  int64_t count;
  asm volatile("mrs %0, cntvct_el0" : "=r"(count));
  return count;
#else
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
#endif
}

// Adds the ticks of its scope to one counter; nothing where there is no profile.
class Timed {
 public:
  Timed(const compfast::Profile* profile, int64_t* compfast::Profile::* counters, int index)
      : counter_(profile ? profile->*counters + index : nullptr) {
    if (counter_) begin_ = now();
  }
  ~Timed() {
    if (counter_) *counter_ += now() - begin_;
  }
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;

 private:
  // The compiler keeps the scope's loads and stores on their side.
  static int64_t now() {
    asm volatile("" ::: "memory");
    const int64_t t = ticks();
    asm volatile("" ::: "memory");
    return t;
  }
  int64_t* counter_;
  int64_t begin_ = 0;
};

}  // namespace

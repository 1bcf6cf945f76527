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

// The compiler keeps loads and stores on their side of it.
inline int64_t ticks_here() {
  asm volatile("" ::: "memory");
  const int64_t t = ticks();
  asm volatile("" ::: "memory");
  return t;
}

// begin() and end() stand around what one counter counts. No object with a destructor: it would
// bring the exception tables' weak symbol into the kernels' objects.
inline int64_t begin(const compfast::Profile* profile) { return profile ? ticks_here() : 0; }

inline void end(const compfast::Profile* profile, int64_t* compfast::Profile::* counters, int index,
                int64_t begun) {
  if (profile) (profile->*counters)[index] += ticks_here() - begun;
}

}  // namespace

#include "isa.h"

#include <stdexcept>

extern "C" {
#if defined(__aarch64__)
extern const compfast::KernelTable compfast_kernels_neon;
#else
extern const compfast::KernelTable compfast_kernels_generic;
extern const compfast::KernelTable compfast_kernels_v3;
extern const compfast::KernelTable compfast_kernels_v4;
extern const compfast::KernelTable compfast_kernels_v4bf16;
#endif
}

namespace compfast {

#if defined(__aarch64__)

std::vector<const KernelTable*> compiled_kernels() { return {&compfast_kernels_neon}; }

// NEON is part of every aarch64.
static bool supported(const KernelTable&) { return true; }

#else

std::vector<const KernelTable*> compiled_kernels() {
  return {
      &compfast_kernels_generic,
      &compfast_kernels_v3,
      &compfast_kernels_v4,
      &compfast_kernels_v4bf16,
  };
}

static bool supported(const KernelTable& table) {
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                  __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  if (&table == &compfast_kernels_v3) return v3;
  if (&table == &compfast_kernels_v4) return v4;
  if (&table == &compfast_kernels_v4bf16) return v4 && __builtin_cpu_supports("avx512bf16");
  return &table == &compfast_kernels_generic;
}

#endif

std::vector<const KernelTable*> supported_kernels() {
  std::vector<const KernelTable*> result;
  for (const KernelTable* table : compiled_kernels())
    if (supported(*table)) result.push_back(table);
  return result;
}

const KernelTable& select_kernels(const std::string& forced) {
  const std::vector<const KernelTable*> usable = supported_kernels();
  if (forced.empty()) return *usable.back();
  std::string names;
  for (const KernelTable* table : usable) {
    if (forced == table->isa) return *table;
    names += (names.empty() ? "" : ", ") + std::string(table->isa);
  }
  throw std::invalid_argument("COMPFAST_ISA is '" + forced + "'; this machine and build can run " +
                              names);
}

}  // namespace compfast

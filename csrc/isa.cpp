#include "isa.h"

#include <stdexcept>

// COMPFAST_EACH_ISA is EACH(generic)EACH(v3) and so on: what was compiled, weakest first.
extern "C" {
#define EACH(isa) extern const compfast::KernelTable compfast_kernels_##isa;
COMPFAST_EACH_ISA
#undef EACH
}

namespace compfast {

std::vector<const KernelTable*> compiled_kernels() {
#define EACH(isa) &compfast_kernels_##isa,
  return {COMPFAST_EACH_ISA};
#undef EACH
}

#if defined(__aarch64__)

// NEON is part of every aarch64.
static bool supported(const KernelTable&) { return true; }

#else

static bool supported(const KernelTable& table) {
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                  __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  const std::string isa = table.isa;
  if (isa == "v3") return v3;
  if (isa == "v4") return v4;
  if (isa == "v4bf16") return v4 && __builtin_cpu_supports("avx512bf16");
  return isa == "generic";
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

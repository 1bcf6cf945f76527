// supports ISA: exits 0 where this build and machine can run it, else 77 (a skipped test).
#include <cstdio>
#include <stdexcept>

#include "isa.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  try {
    compfast::select_kernels(argv[1]);
  } catch (const std::invalid_argument& error) {
    std::printf("skipped: %s\n", error.what());
    return 77;
  }
  return 0;
}

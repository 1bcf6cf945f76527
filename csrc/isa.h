// Which instruction sets were compiled, which this CPU runs, which one is taken.
#pragma once

#include <string>
#include <vector>

#include "plan.h"

namespace compfast {

std::vector<const KernelTable*> compiled_kernels();   // weakest first
std::vector<const KernelTable*> supported_kernels();  // on this CPU and operating system
// The strongest supported, or `forced` by name; throws std::invalid_argument with one sentence.
const KernelTable& select_kernels(const std::string& forced);

}  // namespace compfast

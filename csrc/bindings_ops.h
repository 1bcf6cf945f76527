// The kernels as single operations in compfast._native; called from compfast/ops.
#pragma once

#include <pybind11/pybind11.h>

namespace compfast {

void bind_ops(pybind11::module_& m);

}  // namespace compfast

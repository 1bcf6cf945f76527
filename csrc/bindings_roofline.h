// What this machine could do at best, in compfast._native; called from
// compfast/engines/roofline.py.
#pragma once

#include <pybind11/pybind11.h>

namespace compfast {

void bind_roofline(pybind11::module_& m);

}  // namespace compfast

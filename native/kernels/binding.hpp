// The kernels as Python sees them.
#pragma once

#include <nanobind/nanobind.h>

namespace tersor {

void bind_kernels(nanobind::module_& m);

}  // namespace tersor

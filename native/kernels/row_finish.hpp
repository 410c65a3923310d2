// What every kind of linear layer does around its products.
#pragma once

#include "isa.hpp"
#include "linear.hpp"

namespace tersor {

inline int threads_for(std::size_t multiplications, int threads) {
    return multiplications < least_for_threads ? 1 : threads;
}

inline void finish_row(const Kernels& k, float* out, std::size_t first, std::size_t rows, const Finish& f) {
    k.finish_each(out, rows, f.scale == nullptr ? nullptr : f.scale + first,
                  f.bias == nullptr ? nullptr : f.bias + first, f.activation);
}

}  // namespace tersor

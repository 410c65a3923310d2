// Max pooling of planes, without the indices that torch keeps for a backward pass.
#include <algorithm>
#include <limits>

#include "linear.hpp"
#include "threads.hpp"

namespace tersor {
namespace {

// The larger one; NaN wins, as in torch.
inline float larger(float a, float b) { return a > b || a != a ? a : b; }

void pool_plane(const Pooling& p, const float* in, float* out) {
    const std::size_t columns = p.width + 2 * p.padding[1];
    float* row = scratch(0, columns);  // the largest of the kernel's rows, padded
    const float nothing = -std::numeric_limits<float>::infinity();
    for (std::size_t y = 0; y < p.out_side(0); ++y, out += p.out_side(1)) {
        std::fill(row, row + columns, nothing);
        float* inner = row + p.padding[1];
        for (std::size_t k = 0; k < p.kernel[0]; ++k) {
            const std::size_t at = y * p.stride[0] + k;
            if (at < p.padding[0] || at - p.padding[0] >= p.height) continue;
            const float* from = in + (at - p.padding[0]) * p.width;
            for (std::size_t i = 0; i < p.width; ++i) inner[i] = larger(from[i], inner[i]);
        }
        const std::size_t count = p.out_side(1);
        if (p.kernel[1] == 2 && p.stride[1] == 2) {
            for (std::size_t i = 0; i < count; ++i) out[i] = larger(row[2 * i], row[2 * i + 1]);
            continue;
        }
        for (std::size_t i = 0; i < count; ++i) {
            float most = row[i * p.stride[1]];
            for (std::size_t k = 1; k < p.kernel[1]; ++k) most = larger(row[i * p.stride[1] + k], most);
            out[i] = most;
        }
    }
}

}  // namespace

void max_pool(const Pooling& p, const float* x, float* out, int threads) {
    const std::size_t in_plane = p.height * p.width, out_plane = p.out_side(0) * p.out_side(1);
    parallel(p.planes, p.planes * in_plane < least_for_threads ? 1 : threads,
             [&](std::size_t plane) { pool_plane(p, x + plane * in_plane, out + plane * out_plane); });
}

}  // namespace tersor

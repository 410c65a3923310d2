#include "binary.hpp"

namespace tersor {
namespace {

// 65536 / (1 + exp(-x / 256)), rounded, at x = -2048, -1920, ..., 2048. The curve between them is
// made of lines, so that no machine's exp() has a say in what a file means.
constexpr std::array<int, 33> kPoints = {
    22,    36,    60,    98,    162,   267,   439,   720,   1179,  1921,  3108,
    4971,  7812,  11955, 17625, 24743, 32768, 40793, 47911, 53581, 57724, 60565,
    62428, 63615, 64357, 64816, 65097, 65269, 65374, 65438, 65476, 65500, 65514};

Curves make() {
    Curves curves{};
    for (std::size_t i = 0; i < 4096; ++i) {
        const int along = static_cast<int>(i & 127);
        const int sum = kPoints[i >> 7] * (128 - along) + kPoints[(i >> 7) + 1] * along;
        curves.squash[i] = static_cast<std::uint16_t>((sum + 64) >> 7);
    }
    std::size_t x = 1;  // the least place whose probability is not below p, from -2047 to 2047
    for (std::size_t p = 0; p < 4096; ++p) {
        while (x < 4095 && curves.squash[x] < 16 * p + 8) ++x;
        curves.stretch[p] = static_cast<std::int16_t>(static_cast<int>(x) - 2048);
    }
    for (std::size_t n = 0; n < 1024; ++n)
        curves.rate[n] = static_cast<std::uint32_t>(131072 / (2 * n + 3));
    return curves;
}

}  // namespace

const Curves kCurves = make();

}  // namespace tersor

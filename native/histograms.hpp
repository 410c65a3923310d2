// Histograms of numbers: counting into their bins, and what a range of values would cost there.
#pragma once

#include <cstddef>
#include <cstdint>

#include "span.hpp"

namespace tersor {

// Adds each value but the zeros to the bin floor(value / width) + counts.size / 2; how many zeros
// there were. Values are `stride` numbers apart.
//
// Throws std::invalid_argument when a value lies in no bin; then some are counted.
std::uint64_t count_into_bins(const float* values, std::size_t size, std::ptrdiff_t stride,
                              float width, Span<std::int64_t> counts);

// For each of `out.size` histograms of absolute values the number of bins, at least `levels`, that
// are kept with the least divergence, of equal ones the most; all bins where `levels` are more.
//
// For i bins, P is these with all that lies beyond in the last of them, and Q these in `levels`
// parts from floor(j i / levels) on, each spread evenly over its bins that are not empty:
//
//   N KL(P || Q) = sum p log p - sum p log q + N log M - N log N,   N = sum p, M = sum q
//
// The parts have two lengths, so their shares of the second sum are remembered by their begin.
void kl_thresholds(Span<const std::int64_t> counts, std::size_t levels, Span<std::int64_t> out);

// For each of several grids, q * scale for the whole numbers q from `low` to `high` less the zero
// point, the sum of counts * (nearest - center)^2. Halves go to the even number.
void histogram_errors(Span<const double> centers, Span<const double> counts,
                      Span<const double> scales, Span<const double> zero_points, double low,
                      double high, Span<double> out);

}  // namespace tersor

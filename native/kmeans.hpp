// k-means on a line: sorted values, cut into intervals.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "span.hpp"

namespace tersor {

struct Clusters {
    std::vector<double> centroids;         // weighted means, ascending
    std::vector<std::int64_t> boundaries;  // first value of each cluster, then the number of values
    double wcss;                           // sum of weight * (value - centroid)^2
    double least;                          // no k centroids have a smaller wcss
};

// The best k clusters of ascending values; equal ones are never parted. `weights` is empty (each
// value counts 1) or as long as the values, positive and finite.
//
// Values go into at most `bins` bins, and the cheapest cut at their borders is found exactly
// (cuts.hpp); it is then refined on the values by Lloyd's steps. With no more distinct values than
// bins every distinct value is a bin, and the result is the optimum. Otherwise it differs by no
// more than
//
//     wcss - optimum <= range / 2 * max over bins of (their weight * their width),
//
// the bins being cut so that this product is about the same in all of them. Proof: with the
// optimum's centroids c_j held, let each bin go to one of them as a whole. A value x that crosses
// the middle m_j of two centroids costs 2 (c_j+1 - c_j) |x - m_j| more. Say L_j and R_j are the
// sums of |x - m_j| over the values of the bin left and right of an m_j inside it; L_j grows with j
// and R_j falls, so there is a centroid such that all middles before it have L_j <= R_j and none
// after it has: if the bin goes there, each m_j costs 2 (c_j+1 - c_j) min(L_j, R_j), and
// min(L, R) <= sqrt(L R) <= weight * width / 4. The gaps of the centroids add up to at most the
// range. New means only gain, and no cut at borders is cheaper than ours.
//
// Throws std::invalid_argument when an input breaks these rules.
template <class Float>
Clusters kmeans_1d(Span<const Float> values, Span<const double> weights, std::size_t k,
                   std::size_t bins);

// Lloyd's steps from ascending centroids until nothing moves, at most `steps`. A value half-way
// goes to the lower centroid, an empty cluster keeps its centroid and is left out in the end.
// `least` is 0. Sums come from running totals over bins, so a step costs O(k log n).
template <class Float>
Clusters lloyd(Span<const Float> values, Span<const double> weights,
               Span<const double> centroids, std::size_t steps);

// Writes the number of borders that are below each value: its cluster, if these are the middles.
template <class Float>
void count_below(Span<const Float> values, Span<const double> borders, Span<std::int32_t> out);

}  // namespace tersor

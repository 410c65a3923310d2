// The cheapest cut of an ordered row of weighted points into k intervals.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "span.hpp"

namespace tersor {

// Running totals of weight, weight * x and weight * x^2 at the n + 1 places where a cut may be, the
// first of them all zero. Keep |x| near 1 and their mean near 0: less cancels then.
struct Moments {
    std::vector<long double> weight, first, second;

    // Within-interval sum of squares between two places.
    long double cost(std::size_t begin, std::size_t end) const {
        const long double w = weight[end] - weight[begin];
        const long double s = first[end] - first[begin];
        const long double c = second[end] - second[begin] - s * s / w;
        return c > 0 ? c : 0;
    }
};

struct Cuts {
    std::vector<std::uint32_t> places;  // k + 1, from 0 to n, ascending
    long double least;  // no cut into k intervals at these places costs less, up to rounding
};

// The cost of an interval obeys the quadrangle inequality, so the least cost is a convex function
// of k, and a price per interval that makes k of them best is found by bisection. For one price the
// best start of the last interval never moves left as the end moves right: a queue of starts, each
// with the end from which on it is best, gives all of them in O(n log n) (Wilber 1988; Galil and
// Park 1990). Where prices jump over k, a path with fewer and one with more intervals, both of
// least cost at that price, are joined to one with k (Aggarwal, Schieber and Tokuyama 1994). Source
// of the use for k-means: Gronlund et al. 2017, arXiv 1701.07204; theirs is O(n) a price.
//
// Needs 1 <= k <= n < 2^32 and positive weights.
Cuts cheapest_cuts(const Moments& moments, std::size_t k);

}  // namespace tersor

// Exact k-means on a line: the best cut of sorted values into k intervals.
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
};

// Dynamic programming over (clusters used, values covered). The best start of the last cluster
// never moves left as more values are covered (Wu 1991), so each layer is filled by divide and
// conquer: O(k m log m) time, O(k m) memory. The values ascend strictly, the weights are positive
// and finite; returns min(k, m) clusters. Source of the recurrence: Wang and Song 2011,
// "Ckmeans.1d.dp", The R Journal 3(2).
//
// Throws std::invalid_argument when an input breaks these rules.
Clusters kmeans_1d(Span<const double> values, Span<const double> weights, std::size_t k);

}  // namespace tersor

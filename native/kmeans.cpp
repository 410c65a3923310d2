#include "kmeans.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

namespace tersor {
namespace {

void check(Span<const double> values, Span<const double> weights, std::size_t k) {
    if (values.size != weights.size)
        throw std::invalid_argument("kmeans_1d: " + std::to_string(values.size) + " values, but " +
                                    std::to_string(weights.size) + " weights");
    if (values.size == 0) throw std::invalid_argument("kmeans_1d: no values, expected at least 1");
    if (values.size > std::numeric_limits<std::uint32_t>::max())
        throw std::invalid_argument("kmeans_1d: " + std::to_string(values.size) +
                                    " values, expected less than 2^32: bin them first");
    if (k == 0) throw std::invalid_argument("kmeans_1d: k is 0, expected at least 1");
    for (std::size_t i = 0; i < values.size; ++i) {
        if (!std::isfinite(values[i]) || !std::isfinite(weights[i]) || !(weights[i] > 0))
            throw std::invalid_argument("kmeans_1d: value or weight " + std::to_string(i) +
                                        " is not finite, or the weight is not positive");
        if (i > 0 && !(values[i - 1] < values[i]))
            throw std::invalid_argument("kmeans_1d: values do not ascend strictly at " +
                                        std::to_string(i));
    }
}

// The cost of one cluster from prefix sums. The values are centred on their mean and scaled to
// [-1, 1] before, so squares neither overflow nor vanish and little cancels.
class Cost {
public:
    Cost(Span<const double> values, Span<const double> weights)
        : weight_(values.size + 1), first_(values.size + 1), second_(values.size + 1) {
        const long double low = values[0], range = values[values.size - 1] - low;
        const long double scale = range > 0 ? range : 1;
        long double total = 0, mean = 0;
        for (std::size_t i = 0; i < values.size; ++i) {
            total += weights[i];
            mean += weights[i] * ((values[i] - low) / scale);
        }
        mean /= total;
        for (std::size_t i = 0; i < values.size; ++i) {
            const long double x = (values[i] - low) / scale - mean;
            weight_[i + 1] = weight_[i] + weights[i];
            first_[i + 1] = first_[i] + weights[i] * x;
            second_[i + 1] = second_[i] + weights[i] * x * x;
        }
    }

    // Within-cluster sum of squares of values [begin, end), scaled.
    long double operator()(std::size_t begin, std::size_t end) const {
        if (end - begin < 2) return 0;
        const long double w = weight_[end] - weight_[begin];
        const long double s = first_[end] - first_[begin];
        return std::max(0.0L, second_[end] - second_[begin] - s * s / w);
    }

private:
    std::vector<long double> weight_, first_, second_;
};

// One layer of the table: best[end] = the least cost of values [0, end) in `used` clusters, and
// where the last of them starts.
class Layer {
public:
    Layer(const Cost& cost, const std::vector<long double>& previous, std::size_t used,
          std::vector<long double>& best, Span<std::uint32_t> start)
        : cost_(cost), previous_(previous), used_(used), best_(best), start_(start) {}

    // Fills ends [low, high]; their best starts are known to lie in [from, to].
    void fill(std::size_t low, std::size_t high, std::size_t from, std::size_t to) {
        const std::size_t end = low + (high - low) / 2;
        long double least = std::numeric_limits<long double>::infinity();
        std::size_t where = from;
        for (std::size_t s = std::max(from, used_ - 1); s <= std::min(to, end - 1); ++s) {
            const long double sum = previous_[s] + cost_(s, end);
            if (sum < least) {  // the leftmost of equals
                least = sum;
                where = s;
            }
        }
        best_[end] = least;
        start_[end] = static_cast<std::uint32_t>(where);
        if (low < end) fill(low, end - 1, from, where);
        if (end < high) fill(end + 1, high, where, to);
    }

private:
    const Cost& cost_;
    const std::vector<long double>& previous_;
    std::size_t used_;
    std::vector<long double>& best_;
    Span<std::uint32_t> start_;
};

// Centroids and cost of the final clusters straight from the values: exact where one value is
// alone, and without the prefix sums' cancellation.
Clusters measure(Span<const double> values, Span<const double> weights,
                 std::vector<std::int64_t> boundaries) {
    Clusters result{{}, std::move(boundaries), 0};
    long double wcss = 0;
    for (std::size_t c = 0; c + 1 < result.boundaries.size(); ++c) {
        const auto begin = static_cast<std::size_t>(result.boundaries[c]);
        const auto end = static_cast<std::size_t>(result.boundaries[c + 1]);
        const long double origin = values[begin];
        long double weight = 0, sum = 0;
        for (std::size_t i = begin; i < end; ++i) {
            weight += weights[i];
            sum += weights[i] * (values[i] - origin);
        }
        const auto centroid = static_cast<double>(origin + sum / weight);
        for (std::size_t i = begin; i < end; ++i) {
            const long double gap = static_cast<long double>(values[i]) - centroid;
            wcss += weights[i] * gap * gap;
        }
        result.centroids.push_back(centroid);
    }
    result.wcss = static_cast<double>(wcss);
    return result;
}

}  // namespace

Clusters kmeans_1d(Span<const double> values, Span<const double> weights, std::size_t k) {
    check(values, weights, k);
    const std::size_t m = values.size;
    k = std::min(k, m);
    const Cost cost(values, weights);
    std::vector<long double> previous(m + 1), best(m + 1);
    for (std::size_t end = 1; end <= m; ++end) previous[end] = cost(0, end);
    // starts[(used - 2) * (m + 1) + end]: where the last of `used` clusters of [0, end) starts.
    std::vector<std::uint32_t> starts((k - 1) * (m + 1));
    for (std::size_t used = 2; used <= k; ++used) {
        const Span<std::uint32_t> start{starts.data() + (used - 2) * (m + 1), m + 1};
        Layer(cost, previous, used, best, start).fill(used, m, used - 1, m - 1);
        std::swap(previous, best);
    }
    std::vector<std::int64_t> boundaries(k + 1);
    std::size_t end = m;
    for (std::size_t used = k; used >= 1; --used) {
        boundaries[used] = static_cast<std::int64_t>(end);
        if (used > 1) end = starts[(used - 2) * (m + 1) + end];
    }
    return measure(values, weights, std::move(boundaries));
}

}  // namespace tersor

#include "kmeans.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "cuts.hpp"

namespace tersor {
namespace {

template <class Float>
void check(Span<const Float> values, Span<const double> weights, std::size_t k, const char* what) {
    const std::string name(what);
    if (weights.size != 0 && values.size != weights.size)
        throw std::invalid_argument(name + ": " + std::to_string(values.size) + " values, but " +
                                    std::to_string(weights.size) + " weights");
    if (values.size == 0) throw std::invalid_argument(name + ": no values, expected at least 1");
    if (k == 0) throw std::invalid_argument(name + ": k is 0, expected at least 1");
    for (std::size_t i = 0; i < values.size; ++i)
        if (!std::isfinite(values[i]) || (i > 0 && !(values[i - 1] <= values[i])))
            throw std::invalid_argument(name + ": value " + std::to_string(i) +
                                        " is not finite or below the one before it");
    for (std::size_t i = 0; i < weights.size; ++i)
        if (!std::isfinite(weights[i]) || !(weights[i] > 0))
            throw std::invalid_argument(name + ": weight " + std::to_string(i) +
                                        " is not finite or not positive");
}

// Ascending values with their weights, moved and scaled so that they lie in [-1, 1] around their
// mean: squares neither overflow nor vanish, and little cancels.
template <class Float>
class Row {
public:
    Row(Span<const Float> values, Span<const double> weights) : values_(values), weights_(weights) {
        low_ = values[0];
        const long double range = values[values.size - 1] - low_;
        scale_ = range > 0 ? range : 1;
        long double total = 0, sum = 0;
        for (std::size_t i = 0; i < values.size; ++i) {
            total += weight(i);
            sum += weight(i) * ((values[i] - low_) / scale_);
        }
        mean_ = sum / total;
    }

    std::size_t size() const { return values_.size; }
    Float value(std::size_t i) const { return values_[i]; }
    long double weight(std::size_t i) const { return weights_.size ? weights_[i] : 1.0L; }
    long double at(std::size_t i) const { return (values_[i] - low_) / scale_ - mean_; }
    long double original(long double x) const { return (x + mean_) * scale_ + low_; }
    long double scale() const { return scale_; }

    // How many values are not above a bound.
    std::size_t up_to(double bound) const {
        const auto above = std::upper_bound(values_.begin(), values_.end(), bound,
                                            [](double b, Float v) { return b < double{v}; });
        return static_cast<std::size_t>(above - values_.begin());
    }

private:
    Span<const Float> values_;
    Span<const double> weights_;
    long double low_, scale_, mean_;
};

// Starts of the bins, then the number of values.
using Starts = std::vector<std::size_t>;

// Cuts the row into bins whose weight * width (scaled) is at most `limit`, and that hold at most
// `most` values unless these are equal. Gives up, empty, when there would be more than `bins`.
template <class Float>
Starts cut(const Row<Float>& row, long double limit, std::size_t most, std::size_t bins) {
    Starts starts{0};
    long double weight = 0;
    for (std::size_t i = 0; i < row.size();) {
        std::size_t end = i + 1;  // of the equal values from i on
        long double more = row.weight(i);
        for (; end < row.size() && !(row.value(i) < row.value(end)); ++end) more += row.weight(end);
        const std::size_t start = starts.back();
        const long double width = row.at(i) - row.at(start);
        if (i > start && ((weight + more) * width > limit || end - start > most)) {
            if (starts.size() == bins) return {};
            starts.push_back(i);
            weight = 0;
        }
        weight += more;
        i = end;
    }
    starts.push_back(row.size());
    return starts;
}

// At most `bins` bins: one for each distinct value if these are no more, else of equal
// weight * width as nearly as they get.
template <class Float>
Starts cut(const Row<Float>& row, std::size_t bins) {
    Starts starts = cut(row, 0, 1, bins);
    if (!starts.empty()) return starts;
    // If a chunk falls into m bins, each of them has 1 / m^2 of its product.
    const std::size_t chunk = std::max<std::size_t>(1, row.size() / 4096);
    long double roots = 0;
    for (std::size_t i = 0; i < row.size(); i += chunk) {
        const std::size_t end = std::min(row.size(), i + chunk);
        long double weight = 0;
        for (std::size_t j = i; j < end; ++j) weight += row.weight(j);
        roots += std::sqrt(weight * (row.at(std::min(end, row.size() - 1)) - row.at(i)));
    }
    long double limit = roots / static_cast<long double>(bins);
    limit *= limit;
    const std::size_t most = std::max<std::size_t>(2, 4 * (row.size() / bins + 1));
    for (; starts.empty(); limit *= 1.5L) starts = cut(row, limit, most, bins);
    return starts;
}

// Moments at the starts of bins, and from there at any place.
template <class Float>
class Binned {
public:
    Binned(const Row<Float>& row, Starts starts) : row_(row), starts_(std::move(starts)) {
        const std::size_t n = starts_.size();
        moments_.weight.resize(n);
        moments_.first.resize(n);
        moments_.second.resize(n);
        for (std::size_t b = 0; b + 1 < n; ++b) {
            long double weight = 0, first = 0, second = 0;
            for (std::size_t i = starts_[b]; i < starts_[b + 1]; ++i) {
                const long double w = row.weight(i), x = row.at(i);
                weight += w;
                first += w * x;
                second += w * x * x;
            }
            moments_.weight[b + 1] = moments_.weight[b] + weight;
            moments_.first[b + 1] = moments_.first[b] + first;
            moments_.second[b + 1] = moments_.second[b] + second;
            const long double width = row.at(starts_[b + 1] - 1) - row.at(starts_[b]);
            largest_ = std::max(largest_, weight * width);
        }
    }

    std::size_t size() const { return starts_.size() - 1; }
    const Moments& moments() const { return moments_; }
    long double largest() const { return largest_; }  // weight * width of a bin
    std::size_t start(std::size_t bin) const { return starts_[bin]; }

    // Total weight and weight * x of the values before a place.
    std::pair<long double, long double> before(std::size_t place) const {
        const auto above = std::upper_bound(starts_.begin(), starts_.end(), place);
        const auto bin = static_cast<std::size_t>(above - starts_.begin()) - 1;
        long double weight = moments_.weight[bin], first = moments_.first[bin];
        for (std::size_t i = starts_[bin]; i < place; ++i) {
            weight += row_.weight(i);
            first += row_.weight(i) * row_.at(i);
        }
        return {weight, first};
    }

private:
    const Row<Float>& row_;
    Starts starts_;
    Moments moments_;
    long double largest_ = 0;
};

// Where the values nearest to each centroid begin, then the number of values.
template <class Float>
std::vector<std::int64_t> nearest(const Row<Float>& row, const std::vector<double>& centroids) {
    std::vector<std::int64_t> boundaries{0};
    for (std::size_t c = 1; c < centroids.size(); ++c) {
        // Halved first, a middle of large values would be finite, but of the smallest ones wrong.
        double middle = (centroids[c - 1] + centroids[c]) / 2;
        if (!std::isfinite(middle)) middle = centroids[c - 1] / 2 + centroids[c] / 2;
        boundaries.push_back(static_cast<std::int64_t>(row.up_to(middle)));
    }
    boundaries.push_back(static_cast<std::int64_t>(row.size()));
    return boundaries;
}

// Moves the centroids until they stay, at most `steps` times.
template <class Float>
void descend(const Row<Float>& row, const Binned<Float>& binned, std::vector<double>& centroids,
             std::size_t steps) {
    std::vector<std::int64_t> last;
    for (std::size_t step = 0; step < steps; ++step) {
        std::vector<std::int64_t> boundaries = nearest(row, centroids);
        if (boundaries == last) return;
        auto [weight, first] = binned.before(0);
        for (std::size_t c = 0; c < centroids.size(); ++c) {
            const auto [w, s] = binned.before(static_cast<std::size_t>(boundaries[c + 1]));
            if (w > weight)
                centroids[c] = static_cast<double>(row.original((s - first) / (w - weight)));
            weight = w;
            first = s;
        }
        last = std::move(boundaries);
    }
}

// Centroids and cost of clusters straight from the values: exact where one value is alone, and
// without the running totals' cancellation. Empty clusters are left out.
template <class Float>
Clusters measure(Span<const Float> values, Span<const double> weights,
                 const std::vector<std::int64_t>& boundaries) {
    Clusters result{{}, {0}, 0, 0};
    long double wcss = 0;
    for (std::size_t c = 0; c + 1 < boundaries.size(); ++c) {
        const auto begin = static_cast<std::size_t>(boundaries[c]);
        const auto end = static_cast<std::size_t>(boundaries[c + 1]);
        if (begin == end) continue;
        const long double origin = values[begin];
        long double weight = 0, sum = 0;
        for (std::size_t i = begin; i < end; ++i) {
            const long double w = weights.size ? weights[i] : 1.0L;
            weight += w;
            sum += w * (values[i] - origin);
        }
        const auto centroid = static_cast<double>(origin + sum / weight);
        for (std::size_t i = begin; i < end; ++i) {
            const long double w = weights.size ? weights[i] : 1.0L;
            const long double gap = static_cast<long double>(values[i]) - centroid;
            wcss += w * gap * gap;
        }
        result.centroids.push_back(centroid);
        result.boundaries.push_back(static_cast<std::int64_t>(end));
    }
    result.wcss = static_cast<double>(wcss);
    return result;
}

}  // namespace

template <class Float>
Clusters kmeans_1d(Span<const Float> values, Span<const double> weights, std::size_t k,
                   std::size_t bins) {
    check(values, weights, k, "kmeans_1d");
    if (bins < 1 || bins > std::numeric_limits<std::uint32_t>::max() - 1)
        throw std::invalid_argument("kmeans_1d: " + std::to_string(bins) +
                                    " bins, expected 1 to 2^32 - 2");
    const Row<Float> row(values, weights);
    const Binned<Float> binned(row, cut(row, std::max(k, bins)));
    const Cuts cuts = cheapest_cuts(binned.moments(), std::min(k, binned.size()));
    std::vector<std::int64_t> boundaries;
    for (const std::uint32_t bin : cuts.places)
        boundaries.push_back(static_cast<std::int64_t>(binned.start(bin)));
    if (!(binned.largest() > 0)) {  // a bin for each distinct value
        Clusters best = measure(values, weights, boundaries);
        best.least = best.wcss;
        return best;
    }
    std::vector<double> centroids = measure(values, weights, boundaries).centroids;
    descend(row, binned, centroids, 1000);
    Clusters refined = measure(values, weights, nearest(row, centroids));
    const long double least = (cuts.least - binned.largest() / 2) * row.scale() * row.scale();
    refined.least = std::min(refined.wcss, static_cast<double>(std::max(0.0L, least)));
    return refined;
}

template <class Float>
Clusters lloyd(Span<const Float> values, Span<const double> weights, Span<const double> centroids,
               std::size_t steps) {
    check(values, weights, centroids.size, "lloyd");
    for (std::size_t c = 0; c < centroids.size; ++c)
        if (!std::isfinite(centroids[c]) || (c > 0 && !(centroids[c - 1] <= centroids[c])))
            throw std::invalid_argument("lloyd: centroid " + std::to_string(c) +
                                        " is not finite or below the one before it");
    const Row<Float> row(values, weights);
    Starts starts{0};
    const std::size_t size = std::max<std::size_t>(16, values.size / 65536);
    while (starts.back() < values.size)
        starts.push_back(std::min(values.size, starts.back() + size));
    const Binned<Float> binned(row, std::move(starts));
    std::vector<double> moved(centroids.begin(), centroids.end());
    descend(row, binned, moved, steps);
    return measure(values, weights, nearest(row, moved));
}

template <class Float>
void count_below(Span<const Float> values, Span<const double> borders, Span<std::int32_t> out) {
    if (values.size != out.size || borders.size > std::size_t{1} << 30)
        throw std::invalid_argument("count_below: " + std::to_string(values.size) + " values, " +
                                    std::to_string(out.size) + " places for their counts");
    // Padded with infinities to 2^d - 1, all values take the same steps, without a branch.
    std::size_t half = 1;
    while (2 * half - 1 < borders.size) half *= 2;
    std::vector<double> padded(2 * half - 1, std::numeric_limits<double>::infinity());
    std::copy(borders.begin(), borders.end(), padded.begin());
    for (std::size_t i = 0; i < values.size; ++i) {
        const double value = values[i];
        std::size_t below = 0;
        for (std::size_t step = half; step > 0; step /= 2)
            below += padded[below + step - 1] < value ? step : 0;
        out[i] = static_cast<std::int32_t>(below);
    }
}

template Clusters kmeans_1d(Span<const float>, Span<const double>, std::size_t, std::size_t);
template Clusters kmeans_1d(Span<const double>, Span<const double>, std::size_t, std::size_t);
template Clusters lloyd(Span<const float>, Span<const double>, Span<const double>, std::size_t);
template Clusters lloyd(Span<const double>, Span<const double>, Span<const double>, std::size_t);
template void count_below(Span<const float>, Span<const double>, Span<std::int32_t>);
template void count_below(Span<const double>, Span<const double>, Span<std::int32_t>);

}  // namespace tersor

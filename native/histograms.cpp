#include "histograms.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace tersor {
namespace {

constexpr double kUnknown = -std::numeric_limits<double>::infinity();

double x_log_x(double x) { return x > 0 ? x * std::log(x) : 0.0; }

// Sums of one histogram over its first bins, and the shares of parts of it in sum p log q.
class Parts {
public:
    Parts(const std::int64_t* counts, std::size_t bins)
        : mass_(bins + 1), entropy_(bins + 1), filled_(bins + 1),
          short_(bins, kUnknown), long_(bins, kUnknown) {
        for (std::size_t i = 0; i < bins; ++i) {
            const auto count = static_cast<double>(counts[i]);
            mass_[i + 1] = mass_[i] + count;
            entropy_[i + 1] = entropy_[i] + x_log_x(count);
            filled_[i + 1] = filled_[i] + (counts[i] > 0);
        }
    }

    double mass(std::size_t bins) const { return mass_[bins]; }
    double entropy(std::size_t bins) const { return entropy_[bins]; }

    // What each bin of a part gets of its mass, where it gets any.
    double level(std::size_t begin, std::size_t end) const {
        const std::size_t filled = filled_[end] - filled_[begin];
        return filled == 0 ? 0.0 : (mass_[end] - mass_[begin]) / static_cast<double>(filled);
    }

    // sum q log q over the first `bins` in so many parts; `bins` must not fall from call to call.
    double cross(std::size_t bins, std::size_t levels) {
        const std::size_t length = bins / levels, longer = bins % levels;
        if (length != length_) {
            if (length == length_ + 1)
                short_.swap(long_);
            else
                std::fill(short_.begin(), short_.end(), kUnknown);
            std::fill(long_.begin(), long_.end(), kUnknown);
            length_ = length;
        }
        double sum = 0;
        std::size_t begin = 0, rest = 0;  // rest = (j * bins) % levels
        for (std::size_t j = 0; j < levels; ++j) {
            rest += longer;
            const bool more = rest >= levels;
            if (more) rest -= levels;
            sum += share(more ? long_ : short_, begin, begin + length + more);
            begin += length + more;
        }
        return sum;
    }

private:
    double share(std::vector<double>& known, std::size_t begin, std::size_t end) {
        double& found = known[begin];
        if (found == kUnknown) {
            const double q = level(begin, end);
            found = q > 0 ? (mass_[end] - mass_[begin]) * std::log(q) : 0.0;
        }
        return found;
    }

    std::vector<double> mass_, entropy_;
    std::vector<std::size_t> filled_;
    std::size_t length_ = 0;             // of the parts in `short_`; those in `long_` have one more
    std::vector<double> short_, long_;  // by their begin
};

std::int64_t threshold(const std::int64_t* counts, std::size_t bins, std::size_t levels) {
    if (levels > bins) return static_cast<std::int64_t>(bins);
    Parts parts(counts, bins);
    const double total = parts.mass(bins);
    std::vector<double> found(bins + 1, std::numeric_limits<double>::infinity());
    double least = found[0];
    for (std::size_t i = levels; i <= bins; ++i) {
        const auto last = static_cast<double>(counts[i - 1]);
        const double inside = parts.mass(i), beyond = total - inside;
        if (!(inside > 0)) continue;
        double cross = parts.cross(i, levels);
        if (beyond > 0) {
            if (!(last > 0)) continue;  // Q has nothing where P has the rest
            cross += beyond * std::log(parts.level((levels - 1) * i / levels, i));
        }
        const double own = parts.entropy(i - 1) + x_log_x(last + beyond);
        found[i] = own - cross + total * std::log(inside);
        least = std::min(least, found[i]);
    }
    std::size_t best = bins;
    while (best > levels && !(found[best] <= least + 1e-9 * total)) --best;
    return static_cast<std::int64_t>(best);
}

}  // namespace

std::uint64_t count_into_bins(const float* values, std::size_t size, std::ptrdiff_t stride,
                              float width, Span<std::int64_t> counts) {
    const auto half = static_cast<std::int32_t>(counts.size / 2);
    const auto reach = static_cast<float>(half);
    std::int64_t zeros = 0;
    for (std::size_t i = 0; i < size; ++i, values += stride) {
        const float at = *values / width;
        if (!(at >= -reach && at < reach))
            throw std::invalid_argument("count_into_bins: " + std::to_string(*values) +
                                        " is in none of " + std::to_string(counts.size) +
                                        " bins of width " + std::to_string(width));
        auto bin = static_cast<std::int32_t>(at);
        bin -= at < static_cast<float>(bin);  // down, not towards zero
        ++counts[static_cast<std::size_t>(bin + half)];
        zeros += *values == 0;
    }
    if (zeros > 0) counts[static_cast<std::size_t>(half)] -= zeros;  // counted without a branch
    return static_cast<std::uint64_t>(zeros);
}

void kl_thresholds(Span<const std::int64_t> counts, std::size_t levels, Span<std::int64_t> out) {
    if (levels == 0 || out.size == 0 || counts.size == 0 || counts.size % out.size != 0)
        throw std::invalid_argument("kl_thresholds: " + std::to_string(counts.size) +
                                    " counts of " + std::to_string(out.size) +
                                    " histograms, " + std::to_string(levels) + " levels");
    for (const std::int64_t count : counts)
        if (count < 0) throw std::invalid_argument("kl_thresholds: a count is negative");
    const std::size_t bins = counts.size / out.size;
    for (std::size_t row = 0; row < out.size; ++row)
        out[row] = threshold(counts.data + row * bins, bins, levels);
}

void histogram_errors(Span<const double> centers, Span<const double> counts,
                      Span<const double> scales, Span<const double> zero_points, double low,
                      double high, Span<double> out) {
    if (centers.size != counts.size || scales.size != zero_points.size || scales.size != out.size)
        throw std::invalid_argument("histogram_errors: " + std::to_string(centers.size) +
                                    " centers, " + std::to_string(counts.size) + " counts; " +
                                    std::to_string(scales.size) + " scales, " +
                                    std::to_string(zero_points.size) + " zero points");
    constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: adding it leaves no fraction
    constexpr std::size_t kLanes = 4;
    for (std::size_t grid = 0; grid < out.size; ++grid) {
        const double scale = scales[grid];
        const double least = low - zero_points[grid], most = high - zero_points[grid];
        const auto error = [&](std::size_t i) {
            double q = (centers[i] / scale + kRound) - kRound;
            q = q < least ? least : q;
            q = q > most ? most : q;
            const double gap = q * scale - centers[i];
            return counts[i] * gap * gap;
        };
        double sums[kLanes] = {};
        std::size_t i = 0;
        for (; i + kLanes <= centers.size; i += kLanes)
            for (std::size_t lane = 0; lane < kLanes; ++lane) sums[lane] += error(i + lane);
        for (; i < centers.size; ++i) sums[0] += error(i);
        out[grid] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    }
}

}  // namespace tersor

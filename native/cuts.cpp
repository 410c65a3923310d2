#include "cuts.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace tersor {
namespace {

using Path = std::vector<std::uint32_t>;

// Paths of least cost + price * intervals over every stride-th place, and the last one.
class Priced {
public:
    Priced(const Moments& moments, std::size_t stride) : moments_(moments) {
        const std::size_t last = moments.weight.size() - 1;
        for (std::size_t p = 0; p < last; p += stride)
            places_.push_back(static_cast<std::uint32_t>(p));
        places_.push_back(static_cast<std::uint32_t>(last));
        best_.resize(places_.size());
        start_.resize(places_.size());
        queue_.resize(places_.size());
    }

    std::size_t intervals() const { return places_.size() - 1; }
    long double cost() const { return best_.back(); }  // with the price paid

    // Finds the best path for one price.
    void solve(long double price) {
        const std::size_t n = intervals();
        std::size_t front = 0, size = 1;
        queue_[0] = {0, 1};
        best_[0] = 0;
        for (std::size_t end = 1;; ++end) {
            while (size > 1 && queue_[front + 1].from <= end) ++front, --size;
            start_[end] = queue_[front].start;
            best_[end] = through(queue_[front].start, end) + price;
            if (end == n) return;
            const auto start = static_cast<std::uint32_t>(end);
            while (size > 1 && better(start, front + size - 1, queue_[front + size - 1].from))
                --size;
            const std::size_t back = front + size - 1;
            const std::size_t low = std::max<std::size_t>(end, queue_[back].from);
            const std::size_t from = first_better(start, back, size > 1 ? low : end);
            if (from > n) continue;  // never better than the last in the queue
            queue_[back + 1] = {start, static_cast<std::uint32_t>(from)};
            ++size;
        }
    }

    Path path() const {
        Path cuts;
        for (std::size_t end = intervals(); end > 0; end = start_[end]) cuts.push_back(places_[end]);
        cuts.push_back(0);
        std::reverse(cuts.begin(), cuts.end());
        return cuts;
    }

    Path all() const { return places_; }

private:
    struct Candidate {
        std::uint32_t start, from;  // this start is best for ends from `from` on
    };

    long double through(std::size_t start, std::size_t end) const {
        return best_[start] + moments_.cost(places_[start], places_[end]);
    }

    bool better(std::size_t start, std::size_t candidate, std::size_t end) const {
        return end > start && through(start, end) < through(queue_[candidate].start, end);
    }

    // The first end after `low` at which the start is better than the candidate, which it is from
    // there on; intervals() + 1 if there is none. Steps double first: it is mostly near.
    std::size_t first_better(std::size_t start, std::size_t candidate, std::size_t low) const {
        const std::size_t n = intervals();
        std::size_t step = 1, high = low + 1;
        while (high < n && !better(start, candidate, high)) {
            low = high;
            high = std::min(n, high + step);
            step *= 2;
        }
        if (high >= n && (n <= low || !better(start, candidate, n))) return n + 1;
        while (high - low > 1) {
            const std::size_t middle = low + (high - low) / 2;
            (better(start, candidate, middle) ? high : low) = middle;
        }
        return high;
    }

    const Moments& moments_;
    Path places_;
    std::vector<long double> best_;      // least cost of the points before a place
    std::vector<std::uint32_t> start_;   // where the last interval before a place starts
    std::vector<Candidate> queue_;
};

// From a path with fewer than k intervals and one with more, both of least cost at some price, one
// with k: the long path up to where one of its intervals lies inside one of the short path that is
// k - (short intervals) numbers behind, then the short path.
Path join(const Path& few, const Path& many, std::size_t k) {
    const std::size_t ahead = k - (few.size() - 1);
    std::size_t i = 1;
    while (many[i + ahead] > few[i]) ++i;  // ends: at the last, many[k] <= n
    Path joined(many.begin(), many.begin() + static_cast<std::ptrdiff_t>(i + ahead));
    joined.insert(joined.end(), few.begin() + static_cast<std::ptrdiff_t>(i), few.end());
    return joined;
}

struct Search {
    Path path;
    long double price, least;
};

// Bisection of the price, begun at a guess. Below price `low` there are too many intervals.
Search search(Priced& priced, std::size_t k, long double guess) {
    const long double links = static_cast<long double>(k);
    if (k == priced.intervals()) return {priced.all(), 0, 0};
    // The best paths at price 0 and at no end of a price.
    Path few{priced.all().front(), priced.all().back()}, many = priced.all();
    long double low = 0, high = 0, least = 0, price = guess;
    for (int round = 0; round < 200; ++round) {
        priced.solve(price);
        Path path = priced.path();
        const long double found = static_cast<long double>(path.size() - 1);
        least = std::max(least, priced.cost() - links * price);
        if (path.size() == k + 1) return {std::move(path), price, least};
        if (path.size() > k + 1) {
            many = std::move(path);
            low = price;
        } else {
            few = std::move(path);
            high = price;
        }
        // On a smooth density the number of intervals goes with the price to the power -1/3.
        const long double ratio = found / links;
        long double next = price * ratio * ratio * ratio;
        if (high == 0) {
            next = std::max(next, 2 * price);
        } else if (low == 0) {
            next = std::min(next, price / 2);
            if (next < std::numeric_limits<double>::min()) break;
        } else {
            if (high <= low * (1 + 1e-15L)) break;
            // Every third guess halves the bracket in any case.
            if (round % 3 == 2 || !(next > low && next < high)) next = std::sqrt(low) * std::sqrt(high);
            if (!(next > low && next < high)) break;
        }
        price = next;
    }
    return {join(few, many, k), price, least};
}

}  // namespace

Cuts cheapest_cuts(const Moments& moments, std::size_t k) {
    const std::size_t n = moments.weight.size() - 1;
    const long double total = moments.cost(0, n), links = static_cast<long double>(k);
    if (k == 1) return {{0, static_cast<std::uint32_t>(n)}, total};
    // The price on a uniform density, then on coarser and finer places: each nearly that of the next.
    long double price = 2 * total / (links * links * links);
    if (!(price > 0)) price = 1;
    for (std::size_t stride = n / (8 * k); stride >= 8; stride /= 16) {
        Priced coarse(moments, stride);
        if (coarse.intervals() > k) price = search(coarse, k, price).price;
        if (!(price > 0)) price = 1;
    }
    Priced priced(moments, 1);
    Search found = search(priced, k, price);
    return {std::move(found.path), found.least};
}

}  // namespace tersor

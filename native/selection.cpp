#include "selection.hpp"

#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace tersor {
namespace {

template <class Float>
using KeyOf = std::conditional_t<sizeof(Float) == 4, std::int32_t, std::int64_t>;

// Below zero, floats grow towards minus infinity with their bits, so these are turned round.
template <class Float>
KeyOf<Float> key_of(Float number) {
    using Key = KeyOf<Float>;
    number += Float{0};  // -0.0 becomes +0.0
    Key bits;
    std::memcpy(&bits, &number, sizeof(bits));
    return bits ^ ((bits >> (8 * sizeof(Key) - 1)) & std::numeric_limits<Key>::max());
}

template <class Float>
void add(Span<const Float> numbers, unsigned shift, std::uint64_t prefix, std::int64_t cost,
         Span<std::int64_t> counts) {
    using Unsigned = std::make_unsigned_t<KeyOf<Float>>;
    constexpr unsigned width = 8 * sizeof(Unsigned);
    if (counts.size != std::size_t{1} << kDigitBits || shift % kDigitBits != 0 || shift >= width)
        throw std::invalid_argument("add_digits: shift " + std::to_string(shift) + " and " +
                                    std::to_string(counts.size) + " counts");
    constexpr Unsigned low = Unsigned{1} << (width - 1);  // what the least key is less than 0
    const bool first = shift + kDigitBits == width;
    // Equal digits in a row (what is pruned already, above all) would each wait for the one before.
    std::size_t last = 0;
    std::int64_t run = 0;
    for (const Float number : numbers) {
        const auto key = static_cast<Unsigned>(static_cast<Unsigned>(key_of(number)) + low);
        const auto above = static_cast<Unsigned>(key >> shift);
        if (!first && static_cast<Unsigned>(above >> kDigitBits) != prefix) continue;
        const std::size_t digit = above & 0xFFFF;
        if (digit != last) {
            counts[last] += run;
            last = digit;
            run = 0;
        }
        run += cost;
    }
    counts[last] += run;
}

template <class Float>
Above count(Span<const Float> numbers, std::int64_t key) {
    Above found{0, 0};
    for (const Float number : numbers) {
        const auto mine = static_cast<std::int64_t>(key_of(number));
        found.above += mine > key;
        found.ties += mine == key;
    }
    return found;
}

template <class Float>
std::uint64_t mark(Span<const Float> numbers, std::int64_t key, std::uint64_t ties,
                   Span<bool> out) {
    if (out.size != numbers.size)
        throw std::invalid_argument("mark_above: " + std::to_string(out.size) + " places for " +
                                    std::to_string(numbers.size) + " numbers");
    const auto cut = static_cast<KeyOf<Float>>(key);
    for (std::size_t i = 0; i < numbers.size; ++i) out[i] = key_of(numbers[i]) > cut;
    for (std::size_t i = 0; ties > 0 && i < numbers.size; ++i)
        if (key_of(numbers[i]) == cut) {
            out[i] = true;
            --ties;
        }
    return ties;
}

}  // namespace

void add_digits(Span<const float> numbers, unsigned shift, std::uint64_t prefix, std::int64_t cost,
                Span<std::int64_t> counts) {
    add(numbers, shift, prefix, cost, counts);
}
void add_digits(Span<const double> numbers, unsigned shift, std::uint64_t prefix, std::int64_t cost,
                Span<std::int64_t> counts) {
    add(numbers, shift, prefix, cost, counts);
}
Paid pay(Span<const std::int64_t> counts, std::int64_t budget) {
    Paid paid{0, budget};
    for (std::size_t d = counts.size; d-- > 0 && counts[d] <= paid.left; ++paid.digits)
        paid.left -= counts[d];
    return paid;
}

Above count_above(Span<const float> numbers, std::int64_t key) { return count(numbers, key); }
Above count_above(Span<const double> numbers, std::int64_t key) { return count(numbers, key); }
std::uint64_t mark_above(Span<const float> numbers, std::int64_t key, std::uint64_t ties,
                         Span<bool> out) {
    return mark(numbers, key, ties, out);
}
std::uint64_t mark_above(Span<const double> numbers, std::int64_t key, std::uint64_t ties,
                         Span<bool> out) {
    return mark(numbers, key, ties, out);
}

}  // namespace tersor

// Which of many floats are the highest, by counting: no sort, no copy.
//
// A float's key is a signed integer of its width that is ordered as the floats are, +0.0 and -0.0
// being one. NaNs have keys too, beyond the infinities; the callers refuse them before.
#pragma once

#include <cstdint>

#include "span.hpp"

namespace tersor {

constexpr unsigned kDigitBits = 16;

struct Above {
    std::uint64_t above;  // how many keys are greater
    std::uint64_t ties;   // how many are equal
};

// Adds `cost` to counts[d] for every number whose key begins with `prefix`, d being the 16 bits that
// follow. Keys are taken as unsigned here, the least being 0; the prefix is what lies above
// `shift` + 16 bits, nothing for the first digit. counts has 65,536 entries.
void add_digits(Span<const float> numbers, unsigned shift, std::uint64_t prefix, std::int64_t cost,
                Span<std::int64_t> counts);
void add_digits(Span<const double> numbers, unsigned shift, std::uint64_t prefix, std::int64_t cost,
                Span<std::int64_t> counts);

// Goes down from the highest digit as long as `budget` pays for all of a digit; gives how many it
// paid for, and what is left.
struct Paid {
    std::size_t digits;
    std::int64_t left;
};
Paid pay(Span<const std::int64_t> counts, std::int64_t budget);

Above count_above(Span<const float> numbers, std::int64_t key);
Above count_above(Span<const double> numbers, std::int64_t key);

// Sets out[i] to 1 where the key is greater, and at the first `ties` where it is equal; else to 0.
// Returns how many ties are left.
std::uint64_t mark_above(Span<const float> numbers, std::int64_t key, std::uint64_t ties,
                         Span<bool> out);
std::uint64_t mark_above(Span<const double> numbers, std::int64_t key, std::uint64_t ties,
                         Span<bool> out);

}  // namespace tersor

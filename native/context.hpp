// What a pruned and shared weight tensor looks like, told to a binary coder: which places of a grid
// hold something, and which entry of a codebook each holds. See docs/format.md, "Contexts".
#pragma once

#include <cstdint>
#include <vector>

#include "span.hpp"

namespace tersor {

constexpr std::size_t kMaxContextAlphabet = 1024;

// How a tensor's words lie: rows, columns, how many columns in a row belong to one kernel, and at
// which distance in a row the next neighbours are, as the width of an image; 0 = at none.
struct Lattice {
    std::size_t rows;
    std::size_t columns;
    std::size_t kernel;
    std::size_t lag = 0;
};

// `map` has rows * columns bytes, each 0 or 1.
std::vector<std::uint8_t> map_encode(Span<const std::uint8_t> map, const Lattice& lattice);
void map_decode(Span<const std::uint8_t> in, const Lattice& lattice, Span<std::uint8_t> map);

// One code below `alphabet` for each 1 of the map, in its order.
std::vector<std::uint8_t> codes_encode(Span<const std::uint16_t> codes, std::size_t alphabet,
                                       Span<const std::uint8_t> map, const Lattice& lattice);
void codes_decode(Span<const std::uint8_t> in, std::size_t alphabet, Span<const std::uint8_t> map,
                  const Lattice& lattice, Span<std::uint16_t> codes);

}  // namespace tersor

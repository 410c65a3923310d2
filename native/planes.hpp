// Words as planes of bytes, highest first; each plane as it is or by rANS, whichever is shorter.
//
// Of trained weights the exponents are few and the mantissas are noise. Turned left by one bit, a
// float's exponent fills the highest plane and its sign is the lowest bit.
#pragma once

#include <cstdint>
#include <vector>

#include "span.hpp"

namespace tersor {

struct Planes {
    std::vector<std::uint8_t> stream;
    std::vector<std::uint64_t> lengths;  // of each plane by rANS; 0 = as it is
};

// `words` are the bytes of words of 1, 2, 4 or 8 bytes, in the order of this machine.
Planes planes_encode(Span<const std::uint8_t> words, std::size_t word_size, bool rotate);

// Throws FormatError; `words` holds as many words as were encoded.
void planes_decode(Span<const std::uint8_t> in, Span<const std::uint64_t> lengths, bool rotate,
                   Span<std::uint8_t> words);

}  // namespace tersor

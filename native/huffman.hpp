// Canonical Huffman codes of limited length, the table given by one length per symbol.
//
// Codes are numbered as in DEFLATE (RFC 1951, 3.2.2): shorter first, then by symbol. The first bit
// of a code is its highest; bits fill each byte from the low bit up. A queue: symbols come back in
// the order they went in. An alphabet with one used symbol has length 1 there and takes no bits at
// all, since the number of symbols is known.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "span.hpp"

namespace tersor {

constexpr unsigned kMaxCodeLength = 15;  // what a decoder's table holds, and 4 bits store

// Optimal lengths, none above `max_length`, by package-merge (Larmore and Hirschberg 1990); 0 for
// symbols that do not occur. Throws std::invalid_argument when more symbols occur than such codes
// exist, or max_length is not 1 to 32, or the counts sum to 2^56 or more.
std::vector<std::uint8_t> huffman_lengths(Span<const std::uint64_t> counts, unsigned max_length);

// The stream of `symbols`. Throws std::invalid_argument when one has no code.
std::vector<std::uint8_t> huffman_encode(Span<const std::uint16_t> symbols,
                                         Span<const std::uint8_t> lengths);

// Decodes streams of one table.
class HuffmanDecoder {
public:
    // Throws FormatError when the lengths are no complete prefix code.
    explicit HuffmanDecoder(Span<const std::uint8_t> lengths);

    // Throws FormatError when `bytes` bytes cannot hold `count` symbols: known without decoding.
    void check(std::size_t bytes, std::size_t count) const;

    // Fills `out`. Throws FormatError when the stream ends early, late, or in padding that is not 0.
    void decode(Span<const std::uint8_t> in, Span<std::uint16_t> out) const;

private:
    struct Entry {
        std::uint16_t symbol;
        std::uint16_t length;
    };
    std::vector<Entry> table_;  // by the next `width_` bits of the stream
    unsigned width_ = 0;        // the longest code; 0: no symbol, or one that takes no bits
    std::size_t used_ = 0;
    std::uint16_t only_ = 0;
};

}  // namespace tersor

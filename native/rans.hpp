// Static range asymmetric numeral systems: symbols in as many bits as their entropy, in one table.
//
// Stream: the precision, the frequencies, the state of each lane (u32, little endian), then 16-bit words. Symbol i
// belongs to lane i mod lanes; there is one lane below kRansManyFrom symbols and else there are 8,
// whose chains of multiplications do not wait for each other. Of no symbols the stream is empty.
// Source: Duda 2013, arXiv 1311.2540, section 3 (the range variant); lanes as in Giesen 2014,
// arXiv 1402.3392.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "span.hpp"

namespace tersor {

constexpr unsigned kMinRansBits = 8, kMaxRansBits = 14;  // frequencies sum to 2^bits
constexpr std::size_t kMaxRansAlphabet = 1024;
constexpr std::size_t kRansManyFrom = std::size_t{1} << 16;
constexpr std::size_t kRansManyLanes = 8;

struct RansTable {
    unsigned bits;
    std::vector<std::uint16_t> frequencies;  // sum to 2^bits
    std::uint64_t stream_bytes;              // of table and stream, to within a few
};

// The table with which symbols that occur so often take the fewest bytes, of those of 8 to 12 bits,
// and of 14 where that is worth a table that no first-level cache holds. Throws
// std::invalid_argument: all counts are 0, or there are too many symbols.
RansTable rans_table(Span<const std::uint64_t> counts);

std::vector<std::uint8_t> rans_encode(Span<const std::uint16_t> symbols, std::size_t alphabet);
std::vector<std::uint8_t> rans_encode(Span<const std::uint8_t> symbols, std::size_t alphabet);

class RansDecoder {
public:
    // Reads the table; throws FormatError if it is none. Keeps a view of `in`.
    RansDecoder(Span<const std::uint8_t> in, std::size_t alphabet, std::size_t count);

    // The next symbols; their number is a multiple of 8, or it is all that are left.
    void decode(Span<std::uint16_t> out);
    void decode(Span<std::uint8_t> out);

    // Throws FormatError unless all was read and every lane is back where the encoder began.
    void finish() const;

private:
    template <class Symbol>
    void decode_some(Span<Symbol> out);

    struct Slot {
        std::uint16_t frequency_less_1;
        std::uint16_t offset;  // from the start of the symbol's range
    };
    unsigned bits_ = kMinRansBits;
    std::vector<Slot> slots_;
    std::vector<std::uint16_t> symbols_;
    std::array<std::uint32_t, kRansManyLanes> states_{};
    Span<const std::uint8_t> in_;
    std::size_t next_ = 0;  // byte to read
    std::size_t lanes_ = 1;
    std::size_t left_;  // symbols to decode
};

}  // namespace tersor

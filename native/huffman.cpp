#include "huffman.hpp"

#include <algorithm>
#include <array>
#include <numeric>
#include <stdexcept>
#include <string>

#include "errors.hpp"

namespace tersor {
namespace {

// The code of each symbol with its first bit lowest, as the stream has it.
std::vector<std::uint16_t> stream_codes(Span<const std::uint8_t> lengths) {
    std::array<std::uint32_t, kMaxCodeLength + 2> next{};
    for (const std::uint8_t length : lengths)
        if (length > 0) ++next[length + 1u];
    for (unsigned length = 1; length <= kMaxCodeLength; ++length)
        next[length + 1] = (next[length + 1] + next[length]) << 1;
    // next[l] = the first code of length l: (first of l - 1, plus how many have l - 1), doubled.
    std::vector<std::uint16_t> codes(lengths.size);
    for (std::size_t symbol = 0; symbol < lengths.size; ++symbol) {
        const unsigned length = lengths[symbol];
        if (length == 0) continue;
        std::uint32_t code = next[length]++, reversed = 0;
        for (unsigned bit = 0; bit < length; ++bit, code >>= 1)
            reversed = (reversed << 1) | (code & 1);
        codes[symbol] = static_cast<std::uint16_t>(reversed);
    }
    return codes;
}

std::size_t used_symbols(Span<const std::uint8_t> lengths) {
    return static_cast<std::size_t>(
        std::count_if(lengths.begin(), lengths.end(), [](std::uint8_t l) { return l > 0; }));
}

}  // namespace

std::vector<std::uint8_t> huffman_lengths(Span<const std::uint64_t> counts, unsigned max_length) {
    if (max_length < 1 || max_length > 32)
        throw std::invalid_argument("huffman_lengths: max_length " + std::to_string(max_length) +
                                    ", expected 1 to 32");
    std::vector<std::size_t> leaves;  // used symbols, rarest first
    std::uint64_t total = 0;
    for (std::size_t symbol = 0; symbol < counts.size; ++symbol) {
        if (counts[symbol] == 0) continue;
        leaves.push_back(symbol);
        if (counts[symbol] >= (std::uint64_t{1} << 56) - total)
            throw std::invalid_argument("huffman_lengths: counts sum to 2^56 or more");
        total += counts[symbol];
    }
    std::vector<std::uint8_t> lengths(counts.size, 0);
    const std::size_t n = leaves.size();
    if (n <= 1) {
        for (const std::size_t symbol : leaves) lengths[symbol] = 1;
        return lengths;
    }
    if (n > (std::uint64_t{1} << max_length))
        throw std::invalid_argument("huffman_lengths: " + std::to_string(n) +
                                    " symbols do not fit into codes of " +
                                    std::to_string(max_length) + " bits");
    std::stable_sort(leaves.begin(), leaves.end(),
                     [&](std::size_t a, std::size_t b) { return counts[a] < counts[b]; });

    // Each level holds the leaves merged with pairs of the level below, by weight. Which item of a
    // level is a leaf is all that the way back needs. Weights stay below 32 * 2^56 < 2^64.
    std::vector<std::vector<bool>> is_leaf(max_length);
    std::vector<std::uint64_t> below, level;
    for (unsigned depth = 0; depth < max_length; ++depth) {
        level.clear();
        std::size_t leaf = 0, pair = 0;
        const std::size_t pairs = below.size() / 2;
        while (leaf < n || pair < pairs) {
            const std::uint64_t package =
                pair < pairs ? below[2 * pair] + below[2 * pair + 1] : UINT64_MAX;
            const bool take_leaf = leaf < n && counts[leaves[leaf]] <= package;
            level.push_back(take_leaf ? counts[leaves[leaf]] : package);
            is_leaf[depth].push_back(take_leaf);
            ++(take_leaf ? leaf : pair);
        }
        std::swap(below, level);
    }
    // The cheapest 2n - 2 items of the top level; a leaf taken on a level is one bit of its code.
    std::size_t taken = 2 * n - 2;
    for (unsigned depth = max_length; depth-- > 0;) {
        std::size_t leaf = 0;
        for (std::size_t i = 0; i < taken; ++i)
            if (is_leaf[depth][i]) ++lengths[leaves[leaf++]];
        taken = 2 * (taken - leaf);
    }
    return lengths;
}

std::vector<std::uint8_t> huffman_encode(Span<const std::uint16_t> symbols,
                                         Span<const std::uint8_t> lengths) {
    for (const std::uint8_t length : lengths)
        if (length > kMaxCodeLength)
            throw std::invalid_argument("huffman_encode: code length " + std::to_string(length) +
                                        ", expected at most 15");
    for (const std::uint16_t symbol : symbols)
        if (symbol >= lengths.size || lengths[symbol] == 0)
            throw std::invalid_argument("huffman_encode: symbol " + std::to_string(symbol) +
                                        " has no code");
    std::vector<std::uint8_t> out;
    if (used_symbols(lengths) < 2) return out;
    const std::vector<std::uint16_t> codes = stream_codes(lengths);
    std::size_t bits = 0;
    for (const std::uint16_t symbol : symbols) bits += lengths[symbol];
    out.reserve(bits / 8 + 1);
    std::uint32_t window = 0;  // bits not yet written, low bit first
    unsigned filled = 0;       // how many; at most 7 between symbols, so 22 at most
    for (const std::uint16_t symbol : symbols) {
        window |= std::uint32_t{codes[symbol]} << filled;
        for (filled += lengths[symbol]; filled >= 8; filled -= 8) {
            out.push_back(static_cast<std::uint8_t>(window & 0xFF));
            window >>= 8;
        }
    }
    if (filled > 0) out.push_back(static_cast<std::uint8_t>(window));
    return out;
}

HuffmanDecoder::HuffmanDecoder(Span<const std::uint8_t> lengths) {
    if (lengths.size > 65536)
        throw FormatError("Huffman table of " + std::to_string(lengths.size) +
                          " symbols, expected at most 65536");
    used_ = used_symbols(lengths);
    std::uint64_t space = 0;  // of 2^15: how much of all 15-bit strings the codes cover
    for (std::size_t symbol = 0; symbol < lengths.size; ++symbol) {
        const unsigned length = lengths[symbol];
        if (length > kMaxCodeLength)
            throw FormatError("Huffman code length " + std::to_string(length) +
                              ", expected at most 15");
        if (length == 0) continue;
        space += std::uint64_t{1} << (kMaxCodeLength - length);
        width_ = std::max(width_, length);
        only_ = static_cast<std::uint16_t>(symbol);
    }
    if (used_ == 1 && width_ != 1)
        throw FormatError("Huffman table: the only symbol has length " + std::to_string(width_) +
                          ", expected 1");
    if (used_ > 1 && space != std::uint64_t{1} << kMaxCodeLength)
        throw FormatError(std::string("Huffman table is ") +
                          (space > std::uint64_t{1} << kMaxCodeLength ? "over-subscribed"
                                                                      : "incomplete"));
    if (used_ < 2) {
        width_ = 0;
        return;
    }
    table_.resize(std::size_t{1} << width_);
    const std::vector<std::uint16_t> codes = stream_codes(lengths);
    for (std::size_t symbol = 0; symbol < lengths.size; ++symbol) {
        const unsigned length = lengths[symbol];
        if (length == 0) continue;
        const Entry entry{static_cast<std::uint16_t>(symbol), static_cast<std::uint16_t>(length)};
        for (std::size_t i = codes[symbol]; i < table_.size(); i += std::size_t{1} << length)
            table_[i] = entry;
    }
}

void HuffmanDecoder::check(std::size_t bytes, std::size_t count) const {
    if (count > 0 && used_ == 0) throw FormatError("Huffman table has no symbols");
    const bool empty = used_ < 2 || count == 0;
    if (empty ? bytes != 0 : (bytes < (count - 1) / 8 + 1))
        throw FormatError("Huffman stream of " + std::to_string(bytes) + " bytes cannot hold " +
                          std::to_string(count) + " symbols");
}

void HuffmanDecoder::decode(Span<const std::uint8_t> in, Span<std::uint16_t> out) const {
    check(in.size, out.size);
    if (width_ == 0) {
        std::fill(out.begin(), out.end(), only_);
        return;
    }
    const std::uint64_t mask = table_.size() - 1;
    std::uint64_t window = 0;  // bits read and not yet used, low bit first
    unsigned filled = 0;       // how many
    std::size_t next = 0;      // byte to read
    std::size_t done = 0;
    // While 8 bytes are left a refill gives 57 bits or more: three codes of at most 15 bits and
    // one spare. After that, byte by byte with a check for each symbol.
    while (done + 4 <= out.size && in.size - next >= 8) {
        for (; filled <= 56; filled += 8) window |= std::uint64_t{in[next++]} << filled;
        for (unsigned i = 0; i < 3; ++i) {
            const Entry entry = table_[window & mask];
            out[done++] = entry.symbol;
            window >>= entry.length;
            filled -= entry.length;
        }
    }
    for (; done < out.size; ++done) {
        for (; filled < width_ && next < in.size; filled += 8)
            window |= std::uint64_t{in[next++]} << filled;
        const Entry entry = table_[window & mask];
        if (entry.length > filled)
            throw FormatError("Huffman stream ends at symbol " + std::to_string(done) + " of " +
                              std::to_string(out.size));
        out[done] = entry.symbol;
        window >>= entry.length;
        filled -= entry.length;
    }
    if (next != in.size || filled >= 8)
        throw FormatError("Huffman stream has bytes after its last symbol");
    if (window != 0) throw FormatError("padding after the Huffman stream is not zero");
}

}  // namespace tersor

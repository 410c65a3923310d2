// Huffman streams: any table and bytes are refused, or are what their symbols encode to.
#include <vector>

#include "errors.hpp"
#include "huffman.hpp"
#include "input.hpp"

using namespace tersor;

namespace {

// Hostile lengths, or, so that the streams behind a table are reached, lengths of a code.
std::vector<std::uint8_t> table(fuzz::Input& input) {
    const bool hostile = input.number(1) % 2;
    const std::size_t alphabet = input.up_to(300);
    std::vector<std::uint8_t> lengths;
    std::vector<std::uint64_t> counts;
    for (std::size_t symbol = 0; symbol < alphabet; ++symbol) {
        const std::uint64_t byte = input.number(1);
        lengths.push_back(static_cast<std::uint8_t>(byte % 18));
        counts.push_back(byte < 128 ? byte : byte << (byte % 40));
    }
    return hostile ? lengths : huffman_lengths(fuzz::view(counts), kMaxCodeLength);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::Input input(data, size);
    std::vector<std::uint16_t> symbols(input.up_to(4096));
    const std::vector<std::uint8_t> lengths = table(input);
    const auto stream = input.rest();
    try {
        const HuffmanDecoder decoder(fuzz::view(lengths));
        decoder.check(stream.size, symbols.size());
        decoder.decode(stream, fuzz::span(symbols));
    } catch (const FormatError&) {
        return 0;
    }
    fuzz::require(huffman_encode(fuzz::view(symbols), fuzz::view(lengths)) ==
                      std::vector<std::uint8_t>(stream.begin(), stream.end()),
                  "symbols encode to other bytes");
    return 0;
}

// rANS streams: any bytes are refused, or their symbols come back from a stream of their own. A
// second half of the inputs are symbols, whose stream is damaged: it is as deep as a good one.
#include <algorithm>
#include <vector>

#include "errors.hpp"
#include "input.hpp"
#include "rans.hpp"

using namespace tersor;

namespace {

template <class Symbol>
std::vector<Symbol> decoded(Span<const std::uint8_t> stream, std::size_t alphabet,
                            std::size_t count, std::size_t step) {
    std::vector<Symbol> symbols(count);
    RansDecoder decoder(stream, alphabet, count);
    for (std::size_t at = 0; at < count; at += step)
        decoder.decode(Span<Symbol>{symbols.data() + at, std::min(step, count - at)});
    decoder.finish();
    return symbols;
}

void check(Span<const std::uint8_t> stream, std::size_t alphabet, std::size_t count,
           std::size_t step) {
    std::vector<std::uint16_t> symbols;
    try {
        symbols = decoded<std::uint16_t>(stream, alphabet, count, std::max<std::size_t>(count, 1));
    } catch (const FormatError&) {
        return;
    }
    for (const std::uint16_t symbol : symbols)
        fuzz::require(symbol < alphabet, "a symbol outside of the alphabet");
    fuzz::require(decoded<std::uint16_t>(stream, alphabet, count, step) == symbols,
                  "step by step other symbols come");
    const std::vector<std::uint8_t> again = rans_encode(fuzz::view(symbols), alphabet);
    fuzz::require(decoded<std::uint16_t>(fuzz::view(again), alphabet, count, step) == symbols,
                  "symbols do not come back");
    if (alphabet > 256) return;
    const auto octets = decoded<std::uint8_t>(stream, alphabet, count, step);
    fuzz::require(std::equal(octets.begin(), octets.end(), symbols.begin(), symbols.end()),
                  "as bytes other symbols come");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::Input input(data, size);
    const std::uint64_t kind = input.number(1);
    const std::size_t alphabet = input.up_to(kMaxRansAlphabet + 1);
    // Mostly few symbols, which is fast; sometimes so many that there are several lanes.
    const std::size_t many = kind % 128 == 0 ? kRansManyFrom : 0;
    const std::size_t step = 8 * (1 + input.number(1));
    if (kind < 128 || alphabet == 0 || alphabet > kMaxRansAlphabet) {
        const std::size_t count = input.up_to(512) + (many > 0 ? many - 8 : 0);
        check(input.rest(), alphabet, count, std::max(step, many / 4));
        return 0;
    }
    const std::size_t at = input.up_to(65535);
    const auto damage = static_cast<std::uint8_t>(input.number(1));
    std::vector<std::uint16_t> symbols;
    for (const std::uint8_t byte : input.rest())
        symbols.push_back(static_cast<std::uint16_t>(byte * alphabet / 256));
    while (!symbols.empty() && symbols.size() < many)
        symbols.push_back(symbols[symbols.size() % input.rest().size]);
    std::vector<std::uint8_t> stream = rans_encode(fuzz::view(symbols), alphabet);
    fuzz::require(decoded<std::uint16_t>(fuzz::view(stream), alphabet, symbols.size(), step) ==
                      symbols,
                  "symbols do not come back");
    if (stream.empty()) return 0;
    stream[at % stream.size()] ^= damage;
    check(fuzz::view(stream), alphabet, symbols.size(), step);
    return 0;
}

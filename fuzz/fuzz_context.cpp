// Context streams, of maps and of codes: any bytes are refused, or what they say comes back from a
// stream of its own. A second half of the inputs are maps and codes, whose streams are damaged.
#include <algorithm>
#include <vector>

#include "context.hpp"
#include "errors.hpp"
#include "input.hpp"

using namespace tersor;

namespace {

using Bytes = std::vector<std::uint8_t>;
using Codes = std::vector<std::uint16_t>;

void check_map(Span<const std::uint8_t> stream, const Lattice& lattice) {
    Bytes map(lattice.rows * lattice.columns);
    try {
        map_decode(stream, lattice, fuzz::span(map));
    } catch (const FormatError&) {
        return;
    }
    for (const std::uint8_t place : map) fuzz::require(place < 2, "a place that is not 0 or 1");
    const Bytes own = map_encode(fuzz::view(map), lattice);
    Bytes again(map.size());
    map_decode(fuzz::view(own), lattice, fuzz::span(again));
    fuzz::require(again == map, "the map does not come back");
}

void check_codes(Span<const std::uint8_t> stream, std::size_t alphabet, const Bytes& map,
                 const Lattice& lattice) {
    Codes codes(static_cast<std::size_t>(std::count(map.begin(), map.end(), 1)));
    try {
        codes_decode(stream, alphabet, fuzz::view(map), lattice, fuzz::span(codes));
    } catch (const FormatError&) {
        return;
    }
    for (const std::uint16_t code : codes) fuzz::require(code < alphabet, "a code too large");
    const Bytes own = codes_encode(fuzz::view(codes), alphabet, fuzz::view(map), lattice);
    Codes again(codes.size());
    codes_decode(fuzz::view(own), alphabet, fuzz::view(map), lattice, fuzz::span(again));
    fuzz::require(again == codes, "the codes do not come back");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::Input input(data, size);
    const std::uint64_t kind = input.number(1);
    Lattice lattice{};
    // Mostly few places, which is fast; sometimes so many that the rates of learning fall.
    lattice.rows = input.number(1) % (kind % 16 < 2 ? 64 : 12);
    lattice.columns = input.number(1) % (kind % 16 < 2 ? 256 : 80);
    lattice.kernel = 1 + input.number(1);
    lattice.lag = input.number(1);
    if (kind & 64) {  // no places, but a side of any length
        lattice.rows = kind & 32 ? 0 : input.number(8);
        lattice.columns = kind & 32 ? input.number(8) : 0;
    }
    const std::size_t alphabet = 1 + input.up_to(kMaxContextAlphabet - 1);
    // Where the codes are: a pattern that the input chooses.
    const std::uint64_t every = 1 + input.number(1) % 16, from = input.number(1);
    Bytes map(lattice.rows * lattice.columns);
    for (std::size_t i = 0; i < map.size(); ++i)
        map[i] = (i * (from | 1)) % 31 % every == 0 ? 1 : 0;
    if (kind < 128) {
        if (kind % 2) check_map(input.rest(), lattice);
        else check_codes(input.rest(), alphabet, map, lattice);
        return 0;
    }
    const std::size_t at = input.up_to(65535);
    const auto damage = static_cast<std::uint8_t>(input.number(1));
    const auto rest = input.rest();
    if (rest.size == 0) return 0;
    Bytes stream;
    if (kind % 2) {
        for (std::size_t i = 0; i < map.size(); ++i)
            map[i] = rest[i / 8 % rest.size] >> (i % 8) & 1;
        stream = map_encode(fuzz::view(map), lattice);
        check_map(fuzz::view(stream), lattice);
    } else {
        Codes codes(static_cast<std::size_t>(std::count(map.begin(), map.end(), 1)));
        for (std::size_t i = 0; i < codes.size(); ++i)
            codes[i] = static_cast<std::uint16_t>(rest[i % rest.size] * alphabet / 256);
        stream = codes_encode(fuzz::view(codes), alphabet, fuzz::view(map), lattice);
        check_codes(fuzz::view(stream), alphabet, map, lattice);
    }
    if (stream.empty()) return 0;
    stream[at % stream.size()] ^= damage;
    if (kind % 2) check_map(fuzz::view(stream), lattice);
    else check_codes(fuzz::view(stream), alphabet, map, lattice);
    return 0;
}

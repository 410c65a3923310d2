#include "context.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "binary.hpp"

namespace tersor {
namespace {

// Which places hold something. Coder codes a bit, or decodes it, so both ways share one model.
template <class Coder>
void code_map(Coder& coder, const Lattice& lattice, std::uint8_t* map) {
    const std::size_t columns = lattice.columns, kernel = lattice.kernel, lag = lattice.lag;
    std::vector<Counter> by_column(columns, Counter::of(1u << 17, 1));  // most places are empty
    std::vector<Counter> by_shape(256), by_near(11 * 16), by_smooth(32 * 16), by_all(6 * 32 * 16);
    std::vector<std::uint8_t> history(columns, 0);  // the last two rows of each column
    Counter everywhere;
    std::array<Mixer, 6> mixers;
    for (std::size_t r = 0; r < lattice.rows; ++r) {
        std::uint8_t* const row = map + r * columns;
        Counter in_row = Counter::of(everywhere.probability22(), 6);
        unsigned in_kernel = 0;
        for (std::size_t c = 0, k = 0; c < columns; ++c) {
            const auto before = [&](std::size_t distance) -> unsigned {
                return distance > 0 && distance <= c ? row[c - distance] : 0u;
            };
            const unsigned left = before(1), second = before(2);
            const unsigned above = history[c] & 1u, two_above = history[c] >> 1 & 1u;
            unsigned near = left + second;
            unsigned shape;
            if (lag > 0) {
                near += before(lag) + before(lag - 1) + before(lag + 1) + before(2 * lag) +
                        before(2 * lag - 1) + before(2 * lag + 1) + before(lag + 2) +
                        (lag > 2 ? before(lag - 2) : 0u);
                shape = before(lag) | before(lag - 1) << 1 | before(lag + 1) << 2 |
                        before(2 * lag) << 3 | left << 4 | second << 5 | above << 6;
            } else {
                const unsigned above_left = c > 0 ? history[c - 1] >> 1 & 1u : 0u;
                const unsigned above_right = c + 1 < columns ? history[c + 1] & 1u : 0u;
                near += above + two_above + above_left + above_right;
                shape = before(3) | above_left << 1 | above_right << 2 | two_above << 3 | left << 4 |
                        second << 5 | above << 6;
            }
            if (kernel > 1)
                shape = static_cast<unsigned>(std::min<std::size_t>(k, 63)) << 2 |
                        std::min(in_kernel, 3u);
            // The mean over neighbouring columns, this one twice.
            const auto column = [&](bool inside, std::size_t j) {
                return by_column[inside ? j : c].probability22();
            };
            std::uint32_t sum = 2 * by_column[c].probability22() + column(c >= 1, c - 1) +
                                column(c + 1 < columns, c + 1);
            if (lag > 0) sum += column(c >= lag, c - lag) + column(lag < columns - c, c + lag);
            const std::uint32_t mean = sum / (lag > 0 ? 6 : 4);
            const auto smooth =
                static_cast<unsigned>((kCurves.stretch[mean >> 10] + 2048) >> 7 << 4 |
                                      (in_row.stretched() + 2048) >> 8);
            const auto alone = static_cast<unsigned>((by_column[c].stretched() + 2048) >> 8);

            Mixer& mixer = mixers[std::min(near, 2u) + 3 * above];
            const unsigned p = mixer.mix({&by_column[c], &in_row, &by_shape[shape],
                                          &by_near[near << 4 | alone], &by_smooth[smooth],
                                          &by_all[std::min(near, 5u) << 9 | smooth]});
            const unsigned bit = coder.code(row[c], p);
            row[c] = static_cast<std::uint8_t>(bit);
            mixer.update(bit);
            everywhere.update(bit);
            history[c] = static_cast<std::uint8_t>(unsigned{history[c]} << 1 | bit);
            in_kernel += bit;
            if (++k == kernel) k = in_kernel = 0;
        }
    }
}

unsigned width_of(std::size_t alphabet) {
    unsigned width = 0;
    while ((std::size_t{1} << width) < alphabet) ++width;
    return width;
}

// Which entry of the codebook each place holds, bit by bit from the top of its index: a walk down
// a binary tree, whose node is part of every context.
template <class Coder>
void code_codes(Coder& coder, std::size_t alphabet, const std::uint8_t* map,
                const Lattice& lattice, std::uint16_t* codes) {
    const unsigned width = width_of(alphabet);
    const std::size_t nodes = std::size_t{1} << width;
    const unsigned coarse = width > 4 ? width - 4 : 0;  // to 16 classes; class 16: nothing before
    constexpr std::size_t none = 16;
    std::vector<Counter> alone(nodes), by_last(17 * nodes), by_above(17 * nodes),
        by_first(17 * nodes), by_second(17 * nodes), by_both(17 * 17 * nodes);
    std::vector<std::uint8_t> above(lattice.columns, none);  // the nearest entry of each column
    std::vector<std::uint8_t> here(lattice.columns);         // the entries of this row
    std::vector<Mixer> mixers(width);
    for (std::size_t r = 0; r < lattice.rows; ++r) {
        std::size_t last = none;
        std::fill(here.begin(), here.end(), static_cast<std::uint8_t>(none));
        for (std::size_t c = 0; c < lattice.columns; ++c) {
            if (map[r * lattice.columns + c] == 0) continue;
            const auto before = [&](std::size_t distance) -> std::size_t {
                return distance > 0 && distance <= c ? here[c - distance] : none;
            };
            std::size_t second = none;
            if (lattice.lag > 0) {
                second = before(lattice.lag);
                if (second == none) second = before(lattice.lag - 1);
                if (second == none) second = before(lattice.lag + 1);
            }
            const std::size_t first = before(1) == none ? second : before(1);
            unsigned node = 1;
            unsigned code = *codes;
            for (unsigned b = width; b-- > 0;) {
                Mixer& mixer = mixers[b];
                const std::array<Counter*, Mixer::kInputs> counters = {
                    &alone[node],
                    &by_last[last * nodes + node],
                    &by_above[above[c] * nodes + node],
                    &by_first[first * nodes + node],
                    &by_second[second * nodes + node],
                    &by_both[(first * 17 + second) * nodes + node]};
                for (Counter* counter : counters)  // what has seen nothing begins as the first
                    if ((counter->state & 1023) == 0)
                        *counter = Counter::of(alone[node].probability22(), 2);
                const unsigned bit = coder.code(code >> b & 1u, mixer.mix(counters));
                mixer.update(bit);
                node = node << 1 | bit;
            }
            code = node - static_cast<unsigned>(nodes);
            if (code >= alphabet)
                throw FormatError("code " + std::to_string(code) + ", but the codebook has " +
                                  std::to_string(alphabet) + " entries");
            *codes++ = static_cast<std::uint16_t>(code);
            last = code >> coarse;
            above[c] = here[c] = static_cast<std::uint8_t>(last);
        }
    }
}

void check(const Lattice& lattice, std::size_t size) {
    // A side of a lattice without places may have any length: the product is not to overflow.
    const bool fits = size == 0 ? lattice.rows == 0 || lattice.columns == 0
                                : lattice.columns > 0 && size % lattice.columns == 0 &&
                                      size / lattice.columns == lattice.rows;
    if (lattice.kernel < 1 || !fits)
        throw std::invalid_argument("context: a map of " + std::to_string(size) + " places");
}

void check_alphabet(std::size_t alphabet) {
    if (alphabet < 1 || alphabet > kMaxContextAlphabet)
        throw std::invalid_argument("context: an alphabet of " + std::to_string(alphabet) +
                                    ", expected 1 to " + std::to_string(kMaxContextAlphabet));
}

std::size_t ones(Span<const std::uint8_t> map) {
    std::size_t count = 0;
    for (const std::uint8_t bit : map) count += bit != 0;
    return count;
}

}  // namespace

std::vector<std::uint8_t> map_encode(Span<const std::uint8_t> map, const Lattice& lattice) {
    check(lattice, map.size);
    std::vector<std::uint8_t> copy(map.begin(), map.end());
    for (std::uint8_t& bit : copy) bit = bit != 0;
    BinaryEncoder coder;
    if (map.size > 0) code_map(coder, lattice, copy.data());
    return coder.finish();
}

void map_decode(Span<const std::uint8_t> in, const Lattice& lattice, Span<std::uint8_t> map) {
    check(lattice, map.size);
    std::fill(map.begin(), map.end(), std::uint8_t{0});
    BinaryDecoder coder(in);
    if (map.size > 0) code_map(coder, lattice, map.data);
    coder.finish();
}

std::vector<std::uint8_t> codes_encode(Span<const std::uint16_t> codes, std::size_t alphabet,
                                       Span<const std::uint8_t> map, const Lattice& lattice) {
    check(lattice, map.size);
    check_alphabet(alphabet);
    if (ones(map) != codes.size)
        throw std::invalid_argument("context: " + std::to_string(codes.size) + " codes for " +
                                    std::to_string(ones(map)) + " places");
    for (const std::uint16_t code : codes)
        if (code >= alphabet)
            throw std::invalid_argument("context: code " + std::to_string(code) +
                                        " of an alphabet of " + std::to_string(alphabet));
    std::vector<std::uint16_t> copy(codes.begin(), codes.end());
    BinaryEncoder coder;
    if (map.size > 0) code_codes(coder, alphabet, map.data, lattice, copy.data());
    return coder.finish();
}

void codes_decode(Span<const std::uint8_t> in, std::size_t alphabet, Span<const std::uint8_t> map,
                  const Lattice& lattice, Span<std::uint16_t> codes) {
    check(lattice, map.size);
    if (alphabet < 1 || alphabet > kMaxContextAlphabet)
        throw FormatError("context alphabet of " + std::to_string(alphabet) +
                          " symbols, expected 1 to " + std::to_string(kMaxContextAlphabet));
    if (ones(map) != codes.size)
        throw FormatError("context: " + std::to_string(codes.size) + " codes for " +
                          std::to_string(ones(map)) + " places");
    std::fill(codes.begin(), codes.end(), std::uint16_t{0});
    BinaryDecoder coder(in);
    if (map.size > 0) code_codes(coder, alphabet, map.data, lattice, codes.data);
    coder.finish();
}

}  // namespace tersor

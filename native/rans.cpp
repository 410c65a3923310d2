#include "rans.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "errors.hpp"

namespace tersor {
namespace {

constexpr std::uint32_t kLeast = 1u << 16;  // a state is never below it

std::size_t lanes_of(std::size_t count) { return count < kRansManyFrom ? 1 : kRansManyLanes; }

unsigned bit_length(unsigned value) {
    unsigned length = 0;
    for (; value > 0; value >>= 1) ++length;
    return length;
}

// Bits one after the other, low bit of a byte first.
class BitWriter {
public:
    explicit BitWriter(std::vector<std::uint8_t>& out) : out_(out) {}
    void put(unsigned value, unsigned bits) {
        window_ |= value << filled_;
        for (filled_ += bits; filled_ >= 8; filled_ -= 8, window_ >>= 8)
            out_.push_back(static_cast<std::uint8_t>(window_ & 0xFF));
    }
    void pad() {
        if (filled_ > 0) out_.push_back(static_cast<std::uint8_t>(window_ & 0xFF));
        window_ = filled_ = 0;
    }

private:
    std::vector<std::uint8_t>& out_;
    unsigned window_ = 0, filled_ = 0;
};

// The precision; of all frequencies 4 bits for the bit length; from a byte boundary on, the bits
// below the top one.
void write_table(const RansTable& table, std::vector<std::uint8_t>& out) {
    BitWriter writer(out);
    writer.put(table.bits, 8);
    for (const std::uint16_t f : table.frequencies) writer.put(bit_length(f), 4);
    writer.pad();
    for (const std::uint16_t f : table.frequencies)
        if (f > 1) {
            const unsigned bits = bit_length(f) - 1;
            writer.put(f - (1u << bits), bits);
        }
    writer.pad();
}

std::size_t table_size(const std::vector<std::uint16_t>& frequencies) {
    std::size_t bits = 0;
    for (const std::uint16_t f : frequencies)
        if (f > 1) bits += bit_length(f) - 1;
    return 1 + (frequencies.size() + 1) / 2 + (bits + 7) / 8;
}

class BitReader {
public:
    BitReader(Span<const std::uint8_t> in, std::size_t& next) : in_(in), next_(next) {}
    unsigned get(unsigned bits) {
        for (; filled_ < bits; filled_ += 8) {
            if (next_ == in_.size) throw FormatError("rANS table is cut short");
            window_ |= static_cast<unsigned>(in_[next_++]) << filled_;
        }
        const unsigned value = window_ & ((1u << bits) - 1);
        window_ >>= bits;
        filled_ -= bits;
        return value;
    }
    void pad() {
        if (window_ != 0) throw FormatError("padding in the rANS table is not zero");
        filled_ = 0;
    }

private:
    Span<const std::uint8_t> in_;
    std::size_t& next_;
    unsigned window_ = 0, filled_ = 0;
};

std::vector<unsigned> read_table(Span<const std::uint8_t> in, std::size_t alphabet,
                                 std::size_t& next, unsigned& precision) {
    std::vector<unsigned> frequencies(alphabet);
    BitReader reader(in, next);
    precision = reader.get(8);
    if (precision < kMinRansBits || precision > kMaxRansBits)
        throw FormatError("rANS precision of " + std::to_string(precision) + " bits, expected " +
                          std::to_string(kMinRansBits) + " to " + std::to_string(kMaxRansBits));
    for (unsigned& f : frequencies) f = reader.get(4);
    reader.pad();
    std::uint32_t sum = 0;
    for (unsigned& f : frequencies) {
        if (f > precision + 1)
            throw FormatError("rANS table: a length of " + std::to_string(f) +
                              ", expected at most " + std::to_string(precision + 1));
        if (f > 1) f = (1u << (f - 1)) + reader.get(f - 1);
        sum += f;
    }
    reader.pad();
    if (sum != 1u << precision)
        throw FormatError("rANS frequencies sum to " + std::to_string(sum) + ", expected " +
                          std::to_string(1u << precision));
    return frequencies;
}

template <class Symbol>
std::vector<std::uint8_t> encode(Span<const Symbol> symbols, std::size_t alphabet) {
    std::vector<std::uint64_t> counts(alphabet, 0);
    for (const Symbol symbol : symbols) {
        if (symbol >= alphabet)
            throw std::invalid_argument("rans_encode: symbol " + std::to_string(symbol) +
                                        " of an alphabet of " + std::to_string(alphabet));
        ++counts[symbol];
    }
    std::vector<std::uint8_t> out;
    if (symbols.size == 0) return out;
    const RansTable table = rans_table({counts.data(), counts.size()});
    const std::vector<std::uint16_t>& frequencies = table.frequencies;
    write_table(table, out);
    std::vector<std::uint32_t> starts(alphabet);
    for (std::size_t s = 1; s < alphabet; ++s) starts[s] = starts[s - 1] + frequencies[s - 1];

    // Backwards, so that the decoder goes forwards: the words come out in the reverse order.
    const std::size_t lanes = lanes_of(symbols.size);
    std::array<std::uint32_t, kRansManyLanes> states;
    states.fill(kLeast);
    std::vector<std::uint16_t> words;
    words.reserve(symbols.size / 2);
    for (std::size_t i = symbols.size; i-- > 0;) {
        const std::uint32_t f = frequencies[symbols[i]];
        std::uint32_t& x = states[i % lanes];
        if (std::uint64_t{x} >= (std::uint64_t{kLeast} >> table.bits << 16) * f) {
            words.push_back(static_cast<std::uint16_t>(x & 0xFFFF));
            x >>= 16;
        }
        x = ((x / f) << table.bits) + x % f + starts[symbols[i]];
    }
    for (std::size_t lane = 0; lane < lanes; ++lane)
        for (unsigned shift = 0; shift < 32; shift += 8)
            out.push_back(static_cast<std::uint8_t>((states[lane] >> shift) & 0xFF));
    out.reserve(out.size() + 2 * words.size());
    for (std::size_t i = words.size(); i-- > 0;) {
        out.push_back(static_cast<std::uint8_t>(words[i] & 0xFF));
        out.push_back(static_cast<std::uint8_t>(words[i] >> 8));
    }
    return out;
}

// At least 1 where the count is not 0, near the cheapest for these counts.
RansTable table_of(Span<const std::uint64_t> counts, double total, unsigned bits) {
    RansTable table{bits, std::vector<std::uint16_t>(counts.size, 0), 0};
    std::vector<std::uint16_t>& frequencies = table.frequencies;
    int missing = 1 << bits;
    for (std::size_t s = 0; s < counts.size; ++s) {
        if (counts[s] == 0) continue;
        const double exact = static_cast<double>(counts[s]) / total * (1 << bits);
        frequencies[s] = static_cast<std::uint16_t>(std::max(1.0, std::round(exact)));
        missing -= frequencies[s];
    }
    // What is missing or too much goes where it saves most or costs least, one unit at a time.
    const auto change = [&](std::size_t s, double step) {
        const double f = frequencies[s];
        return static_cast<double>(counts[s]) * std::log((f + step) / f);
    };
    for (; missing != 0; missing += missing > 0 ? -1 : 1) {
        const double step = missing > 0 ? 1 : -1;
        std::size_t best = counts.size;
        for (std::size_t s = 0; s < counts.size; ++s) {
            if (counts[s] == 0 || (step < 0 && frequencies[s] == 1)) continue;
            if (best == counts.size || change(s, step) > change(best, step)) best = s;
        }
        frequencies[best] = static_cast<std::uint16_t>(frequencies[best] + static_cast<int>(step));
    }
    double cost = 0;
    for (std::size_t s = 0; s < counts.size; ++s)
        if (counts[s] > 0)
            cost += static_cast<double>(counts[s]) * (bits - std::log2(frequencies[s]));
    // A state begins with 16 bits that say nothing, and ends with as many that say something.
    table.stream_bytes = table_size(frequencies) + 2 * lanes_of(static_cast<std::size_t>(total)) +
                         static_cast<std::uint64_t>(cost / 8) + 1;
    return table;
}

}  // namespace

RansTable rans_table(Span<const std::uint64_t> counts) {
    if (counts.size > kMaxRansAlphabet)
        throw std::invalid_argument("rANS: an alphabet of " + std::to_string(counts.size) +
                                    ", expected at most " + std::to_string(kMaxRansAlphabet));
    double total = 0;
    std::size_t used = 0;
    for (const std::uint64_t count : counts) {
        total += static_cast<double>(count);
        used += count > 0;
    }
    if (used == 0) throw std::invalid_argument("rANS: no symbols are counted");
    RansTable best = table_of(counts, total, 12);
    for (unsigned bits = kMinRansBits; bits < 12; ++bits) {
        if (used > std::size_t{1} << bits) continue;
        RansTable table = table_of(counts, total, bits);
        if (table.stream_bytes < best.stream_bytes) best = std::move(table);
    }
    RansTable finest = table_of(counts, total, kMaxRansBits);
    if (finest.stream_bytes + finest.stream_bytes / 500 < best.stream_bytes)
        best = std::move(finest);
    return best;
}

std::vector<std::uint8_t> rans_encode(Span<const std::uint16_t> symbols, std::size_t alphabet) {
    return encode(symbols, alphabet);
}

std::vector<std::uint8_t> rans_encode(Span<const std::uint8_t> symbols, std::size_t alphabet) {
    return encode(symbols, alphabet);
}

RansDecoder::RansDecoder(Span<const std::uint8_t> in, std::size_t alphabet, std::size_t count)
    : in_(in), left_(count) {
    if (count == 0) {
        lanes_ = 0;
        return;
    }
    if (alphabet > kMaxRansAlphabet)
        throw FormatError("rANS alphabet of " + std::to_string(alphabet) +
                          " symbols, expected at most " + std::to_string(kMaxRansAlphabet));
    const std::vector<unsigned> frequencies = read_table(in, alphabet, next_, bits_);
    slots_.resize(std::size_t{1} << bits_);
    symbols_.resize(std::size_t{1} << bits_);
    std::size_t slot = 0;
    for (std::size_t s = 0; s < alphabet; ++s)
        for (unsigned offset = 0; offset < frequencies[s]; ++offset, ++slot) {
            slots_[slot] = {static_cast<std::uint16_t>(frequencies[s] - 1),
                            static_cast<std::uint16_t>(offset)};
            symbols_[slot] = static_cast<std::uint16_t>(s);
        }
    lanes_ = lanes_of(count);
    if (in.size - next_ < 4 * lanes_) throw FormatError("rANS stream is cut short");
    for (std::size_t lane = 0; lane < lanes_; ++lane) {
        for (unsigned shift = 0; shift < 32; shift += 8)
            states_[lane] |= std::uint32_t{in[next_++]} << shift;
        if (states_[lane] < kLeast) throw FormatError("rANS state is out of range");
    }
}

template <class Symbol>
void RansDecoder::decode_some(Span<Symbol> out) {
    if (out.size > left_) throw std::invalid_argument("rANS: more symbols than there are");
    left_ -= out.size;
    const unsigned bits = bits_;
    const std::uint32_t mask = (1u << bits) - 1;
    const Slot* const slots = slots_.data();
    const std::uint16_t* const symbols = symbols_.data();
    std::size_t done = 0;
    if (lanes_ == kRansManyLanes) {
        // Eight symbols read at most eight words, so only one check is needed for all of them.
        std::array<std::uint32_t, kRansManyLanes> x = states_;
        const std::uint8_t* next = in_.data + next_;
        const std::uint8_t* const end = in_.data + in_.size;
        for (; out.size - done >= 8 && end - next >= 16; done += 8)
            for (std::size_t lane = 0; lane < kRansManyLanes; ++lane) {
                const std::uint32_t at = x[lane] & mask;
                const Slot slot = slots[at];
                out[done + lane] = static_cast<Symbol>(symbols[at]);
                std::uint32_t state =
                    (slot.frequency_less_1 + 1u) * (x[lane] >> bits) + slot.offset;
                const std::uint32_t word = static_cast<std::uint32_t>(next[0] | next[1] << 8);
                const bool low = state < kLeast;
                state = low ? state << 16 | word : state;
                next += low ? 2 : 0;
                x[lane] = state;
            }
        states_ = x;
        next_ = static_cast<std::size_t>(next - in_.data);
    }
    for (std::size_t lane = 0; done < out.size; ++done) {
        std::uint32_t& x = states_[lane];
        const std::uint32_t at = x & mask;
        out[done] = static_cast<Symbol>(symbols[at]);
        x = (slots[at].frequency_less_1 + 1u) * (x >> bits) + slots[at].offset;
        if (x < kLeast) {
            if (in_.size - next_ < 2) throw FormatError("rANS stream is cut short");
            x = x << 16 | in_[next_] | std::uint32_t{in_[next_ + 1]} << 8;
            next_ += 2;
        }
        if (++lane == lanes_) lane = 0;
    }
}

void RansDecoder::decode(Span<std::uint16_t> out) { decode_some(out); }
void RansDecoder::decode(Span<std::uint8_t> out) { decode_some(out); }

void RansDecoder::finish() const {
    if (next_ != in_.size)
        throw FormatError("rANS stream of " + std::to_string(in_.size) + " bytes, but " +
                          std::to_string(next_) + " are read");
    for (std::size_t lane = 0; lane < lanes_; ++lane)
        if (states_[lane] != kLeast) throw FormatError("rANS stream does not end where it began");
}

}  // namespace tersor

#include "planes.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>

#include "errors.hpp"
#include "rans.hpp"

namespace tersor {
namespace {

constexpr std::size_t kPiece = 8192;  // words decoded together; their planes stay in the cache

template <class Word>
Word load(const std::uint8_t* at) {
    Word word;
    std::memcpy(&word, at, sizeof(Word));
    return word;
}

template <class Word>
constexpr unsigned kBits = 8 * sizeof(Word);

template <class Word>
Planes encode(Span<const std::uint8_t> words, bool rotate) {
    const std::size_t count = words.size / sizeof(Word);
    Planes planes;
    std::vector<std::uint8_t> plane(count);
    for (unsigned k = sizeof(Word); k-- > 0;) {
        for (std::size_t i = 0; i < count; ++i) {
            Word word = load<Word>(words.data + i * sizeof(Word));
            if (rotate) word = static_cast<Word>(word << 1 | word >> (kBits<Word> - 1));
            plane[i] = static_cast<std::uint8_t>(word >> (8 * k));
        }
        const std::vector<std::uint8_t> coded = rans_encode({plane.data(), count}, 256);
        // A large plane must become shorter by more than the time to decode it is worth.
        const std::size_t least = count < kRansManyFrom ? 0 : count / 64;
        const bool shorter = coded.size() + least < count;
        const std::vector<std::uint8_t>& chosen = shorter ? coded : plane;
        planes.stream.insert(planes.stream.end(), chosen.begin(), chosen.end());
        planes.lengths.push_back(shorter ? coded.size() : 0);
    }
    return planes;
}

// A plane as it is read: bytes of the stream, or a decoder with a piece of what it gave.
struct Plane {
    const std::uint8_t* raw = nullptr;
    std::optional<RansDecoder> decoder;
    std::array<std::uint8_t, kPiece> piece;

    const std::uint8_t* next(std::size_t from, std::size_t count) {
        if (!decoder) return raw + from;
        decoder->decode(Span<std::uint8_t>{piece.data(), count});
        return piece.data();
    }
};

template <class Word>
void decode(Span<const std::uint8_t> in, Span<const std::uint64_t> lengths, bool rotate,
            Span<std::uint8_t> words) {
    constexpr std::size_t size = sizeof(Word);
    const std::size_t count = words.size / size;
    std::vector<Plane> planes(size);
    std::size_t next = 0;
    for (std::size_t k = 0; k < size; ++k) {
        const std::uint64_t length = lengths[k] == 0 ? count : lengths[k];
        if (length > in.size - next) throw FormatError("a byte plane is cut short");
        if (lengths[k] == 0)
            planes[k].raw = in.data + next;
        else
            planes[k].decoder.emplace(Span<const std::uint8_t>{in.data + next, length}, 256, count);
        next += length;
    }
    if (next != in.size)
        throw FormatError("byte planes of " + std::to_string(next) + " bytes, expected " +
                          std::to_string(in.size));
    for (std::size_t from = 0; from < count; from += kPiece) {
        const std::size_t here = std::min(kPiece, count - from);
        std::array<const std::uint8_t*, size> parts;
        for (std::size_t k = 0; k < size; ++k) parts[k] = planes[k].next(from, here);
        std::uint8_t* out = words.data + from * size;
        for (std::size_t i = 0; i < here; ++i) {
            Word word = 0;
            for (std::size_t k = 0; k < size; ++k)
                word = static_cast<Word>(word | static_cast<Word>(parts[k][i])
                                                    << (8 * (size - 1 - k)));
            if (rotate) word = static_cast<Word>(word >> 1 | word << (kBits<Word> - 1));
            std::memcpy(out + i * size, &word, size);
        }
    }
    for (const Plane& plane : planes)
        if (plane.decoder) plane.decoder->finish();
}

}  // namespace

Planes planes_encode(Span<const std::uint8_t> words, std::size_t word_size, bool rotate) {
    switch (word_size) {
        case 1: return encode<std::uint8_t>(words, rotate);
        case 2: return encode<std::uint16_t>(words, rotate);
        case 4: return encode<std::uint32_t>(words, rotate);
        case 8: return encode<std::uint64_t>(words, rotate);
    }
    throw std::invalid_argument("planes: words of " + std::to_string(word_size) + " bytes");
}

void planes_decode(Span<const std::uint8_t> in, Span<const std::uint64_t> lengths, bool rotate,
                   Span<std::uint8_t> words) {
    switch (lengths.size) {
        case 1: return decode<std::uint8_t>(in, lengths, rotate, words);
        case 2: return decode<std::uint16_t>(in, lengths, rotate, words);
        case 4: return decode<std::uint32_t>(in, lengths, rotate, words);
        case 8: return decode<std::uint64_t>(in, lengths, rotate, words);
    }
    throw FormatError(std::to_string(lengths.size) + " byte planes, expected 1, 2, 4 or 8");
}

}  // namespace tersor

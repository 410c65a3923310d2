// Byte planes: any lengths and bytes are refused, or their words come back from planes of their
// own. A second half of the inputs are words, whose planes are damaged.
#include <vector>

#include "errors.hpp"
#include "input.hpp"
#include "planes.hpp"

using namespace tersor;

namespace {

void check(Span<const std::uint8_t> stream, const std::vector<std::uint64_t>& lengths, bool rotate,
           std::size_t octets) {
    std::vector<std::uint8_t> words(octets);
    try {
        planes_decode(stream, fuzz::view(lengths), rotate, fuzz::span(words));
    } catch (const FormatError&) {
        return;
    }
    const Planes planes = planes_encode(fuzz::view(words), lengths.size(), rotate);
    std::vector<std::uint8_t> again(octets);
    planes_decode(fuzz::view(planes.stream), fuzz::view(planes.lengths), rotate, fuzz::span(again));
    fuzz::require(again == words, "words do not come back");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::Input input(data, size);
    const std::uint64_t kind = input.number(1);
    const std::size_t word_size = std::size_t{1} << (kind % 4);
    const bool rotate = kind & 4, many = (kind & 0x7b) == 1;
    if (kind < 128) {
        const std::size_t count = input.up_to(600) + (many ? 65536 : 0);
        std::vector<std::uint64_t> lengths;
        for (std::size_t plane = 0; plane < word_size; ++plane) {
            const std::uint64_t length = input.number(2);
            // The highest bit: a number of any size, up to 2^64 - 1.
            lengths.push_back(length < 32768 ? length : ~input.number(8));
        }
        check(input.rest(), lengths, rotate, count * word_size);
        return 0;
    }
    const std::size_t at = input.up_to(65535);
    const auto damage = static_cast<std::uint8_t>(input.number(1));
    std::vector<std::uint8_t> words(input.rest().begin(), input.rest().end());
    if (many && !words.empty()) {
        words.reserve(65536 * word_size + words.size());
        while (words.size() < 65536 * word_size)
            words.push_back(words[words.size() - input.rest().size]);
    }
    words.resize(words.size() / word_size * word_size);
    Planes planes = planes_encode(fuzz::view(words), word_size, rotate);
    std::vector<std::uint8_t> back(words.size());
    planes_decode(fuzz::view(planes.stream), fuzz::view(planes.lengths), rotate, fuzz::span(back));
    fuzz::require(back == words, "words do not come back");
    if (planes.stream.empty()) return 0;
    planes.stream[at % planes.stream.size()] ^= damage;
    check(fuzz::view(planes.stream), planes.lengths, rotate, words.size());
    return 0;
}

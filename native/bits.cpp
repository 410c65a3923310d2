#include "bits.hpp"

#include <stdexcept>
#include <string>

#include "errors.hpp"

namespace tersor {

std::size_t packed_bytes(std::size_t count, unsigned width) {
    if (width < 1 || width > 16)
        throw FormatError("code width " + std::to_string(width) + ", expected 1 to 16");
    if (count > (SIZE_MAX - 7) / width)
        throw FormatError("code count " + std::to_string(count) + " overflows");
    return (count * width + 7) / 8;
}

void pack(Span<const std::uint16_t> codes, unsigned width, Span<std::uint8_t> out) {
    if (out.size != packed_bytes(codes.size, width))
        throw std::invalid_argument("pack: the output has another size");
    std::uint8_t* next = out.data;
    std::uint32_t window = 0;  // bits not yet written, low bit first
    unsigned filled = 0;       // how many; at most 7 between codes, so 23 at most: no overflow
    for (const std::uint16_t code : codes) {
        if (code >> width)
            throw std::invalid_argument("pack: code " + std::to_string(code) +
                                        " does not fit into " + std::to_string(width) + " bits");
        window |= std::uint32_t{code} << filled;
        for (filled += width; filled >= 8; filled -= 8) {
            *next++ = static_cast<std::uint8_t>(window & 0xFF);
            window >>= 8;
        }
    }
    if (filled > 0) *next = static_cast<std::uint8_t>(window);
}

void unpack(Span<const std::uint8_t> in, unsigned width, Span<std::uint16_t> out) {
    const std::size_t need = packed_bytes(out.size, width);
    if (in.size != need)
        throw FormatError("codes take " + std::to_string(in.size) + " bytes, expected " +
                          std::to_string(need));
    const unsigned used = static_cast<unsigned>(out.size * width % 8);
    if (used > 0 && in[need - 1] >> used) throw FormatError("padding after the codes is not zero");
    const std::uint8_t* next = in.data;
    std::uint32_t window = 0;  // bits read and not yet used, low bit first
    unsigned filled = 0;       // how many; below `width` before a read, so at most 23: no overflow
    for (std::uint16_t& code : out) {
        for (; filled < width; filled += 8) window |= std::uint32_t{*next++} << filled;
        code = static_cast<std::uint16_t>(window & ((1u << width) - 1));
        window >>= width;
        filled -= width;
    }
}

}  // namespace tersor

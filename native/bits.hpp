// Codes of a fixed width in a row of bytes, low bit first.
#pragma once

#include <cstddef>
#include <cstdint>

#include "span.hpp"

namespace tersor {

// Bytes that `count` codes of `width` bits take. Throws FormatError when the width is not 1 to 16
// or the product overflows: both numbers may come from a file.
std::size_t packed_bytes(std::size_t count, unsigned width);

// Writes `codes` to `out`, which has packed_bytes(codes.size, width) bytes; the last byte is
// padded with zero bits. Throws std::invalid_argument when a code does not fit.
void pack(Span<const std::uint16_t> codes, unsigned width, Span<std::uint8_t> out);

// Fills `out` from exactly packed_bytes(out.size, width) bytes. Throws FormatError when `in` has
// another size or its padding is not zero, before `out` is touched.
void unpack(Span<const std::uint8_t> in, unsigned width, Span<std::uint16_t> out);

}  // namespace tersor

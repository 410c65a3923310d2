#include "integers.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

namespace tersor {
namespace {

constexpr std::uint64_t magic = 0x3152454745544e49;  // "INTEGER1"
constexpr int most = 255;                             // of an integer
constexpr std::uint64_t least_group = 4;              // or all columns, where there are fewer

[[noreturn]] void fail(const std::string& what) { throw std::invalid_argument("integer matrix: " + what); }

struct Layout {
    std::size_t scales, zeros, codes, total;
};

Layout layout_of(const IntegerMatrix& m) {
    if (m.rows < 1 || m.columns < 1 || m.rows > INT32_MAX || m.columns > INT32_MAX)
        fail(std::to_string(m.rows) + " x " + std::to_string(m.columns) + ", expected sides of 1 to 2^31 - 1");
    if (m.bits != 2 && m.bits != 4 && m.bits != 8) fail("codes of " + std::to_string(m.bits) + " bits, expected 2, 4 or 8");
    if (m.group > m.columns || m.group < (m.columns < least_group ? m.columns : least_group))
        fail("groups of " + std::to_string(m.group) + " columns, expected 4 to " + std::to_string(m.columns));
    const auto up = [](std::size_t bytes) { return (bytes + 63) / 64 * 64; };
    const std::size_t tables = m.blocks() * m.groups() * integer_rows;
    Layout l{};
    l.scales = 64;
    l.zeros = l.scales + tables * sizeof(float);
    l.codes = l.zeros + up(tables * sizeof(std::int16_t));
    l.total = l.codes + m.blocks() * m.pieces() * 64;
    return l;
}

// Where the code of a row and column of a group stands: its byte and its shift.
struct Place {
    std::size_t byte;
    unsigned shift;
};

Place place_of(const IntegerMatrix& m, std::uint64_t row, std::uint64_t group, std::uint64_t column) {
    const std::uint64_t piece = group * m.group_pieces(0) + column / m.piece_columns(), in = column % m.piece_columns();
    const std::uint64_t at = (row / integer_rows * m.pieces() + piece) * 64 + row % integer_rows * 4 + in % 4;
    return {at, static_cast<unsigned>(in / 4 * m.bits)};
}

std::uint64_t table_place(const IntegerMatrix& m, std::uint64_t row, std::uint64_t group) {
    return (row / integer_rows * m.groups() + group) * integer_rows + row % integer_rows;
}

}  // namespace

std::size_t integers_bytes(const IntegerMatrix& shape) { return layout_of(shape).total; }

void integers_pack(const IntegerMatrix& shape, Span<const std::int16_t> integers, Span<const float> scales, Span<std::uint8_t> out) {
    const Layout l = layout_of(shape);
    if (out.size != l.total) fail(std::to_string(out.size) + " bytes, expected " + std::to_string(l.total));
    if (integers.size != shape.rows * shape.columns) fail(std::to_string(integers.size) + " integers");
    if (scales.size != shape.rows * shape.groups()) fail(std::to_string(scales.size) + " scales");
    std::memset(out.data, 0, out.size);
    const std::uint64_t head[] = {magic, shape.rows, shape.columns, shape.bits, shape.group};
    std::memcpy(out.data, head, sizeof head);
    auto* to_scales = reinterpret_cast<float*>(out.data + l.scales);
    auto* to_zeros = reinterpret_cast<std::int16_t*>(out.data + l.zeros);
    std::uint8_t* codes = out.data + l.codes;
    const int range = 1 << shape.bits, half = range / 2;
    for (std::uint64_t row = 0; row < shape.rows; ++row)
        for (std::uint64_t group = 0; group < shape.groups(); ++group) {
            const std::int16_t* of_group = integers.data + row * shape.columns + group * shape.group;
            const std::uint64_t count = shape.group_columns(group);
            const auto ends = std::minmax_element(of_group, of_group + count);
            const int low = *ends.first, high = *ends.second;
            if (low < -most || high > most || high - low >= range)
                fail("integers from " + std::to_string(low) + " to " + std::to_string(high) + " at row " + std::to_string(row) +
                     ", and codes have " + std::to_string(shape.bits) + " bits");
            const int zero = low >= -half && high < half ? half : -low;
            to_scales[table_place(shape, row, group)] = scales.data[row * shape.groups() + group];
            to_zeros[table_place(shape, row, group)] = static_cast<std::int16_t>(zero);
            for (std::uint64_t column = 0; column < count; ++column) {
                const Place p = place_of(shape, row, group, column);
                codes[p.byte] = static_cast<std::uint8_t>(codes[p.byte] | (of_group[column] + zero) << p.shift);
            }
        }
}

bool holds_integers(Span<const std::uint8_t> bytes) {
    std::uint64_t head = 0;
    if (bytes.size >= 64) std::memcpy(&head, bytes.data, sizeof head);
    return head == magic;
}

IntegerMatrix integers_view(Span<const std::uint8_t> bytes) {
    std::uint64_t head[5];
    if (bytes.size < 64) fail(std::to_string(bytes.size) + " bytes hold none");
    std::memcpy(head, bytes.data, sizeof head);
    if (head[0] != magic) fail("the bytes hold none");
    IntegerMatrix m;
    m.rows = head[1], m.columns = head[2], m.bits = head[3], m.group = head[4];
    const Layout l = layout_of(m);
    if (l.total != bytes.size) fail(std::to_string(bytes.size) + " bytes, expected " + std::to_string(l.total));
    m.scales = reinterpret_cast<const float*>(bytes.data + l.scales);
    m.zeros = reinterpret_cast<const std::int16_t*>(bytes.data + l.zeros);
    m.codes = bytes.data + l.codes;
    return m;
}

void integers_to_dense(const IntegerMatrix& m, float* out) {
    const int mask = (1 << m.bits) - 1;
    for (std::uint64_t row = 0; row < m.rows; ++row)
        for (std::uint64_t group = 0; group < m.groups(); ++group) {
            const std::uint64_t table = table_place(m, row, group);
            for (std::uint64_t column = 0; column < m.group_columns(group); ++column) {
                const Place p = place_of(m, row, group, column);
                const int integer = (m.codes[p.byte] >> p.shift & mask) - m.zeros[table];
                out[row * m.columns + group * m.group + column] = static_cast<float>(integer) * m.scales[table];
            }
        }
}

}  // namespace tersor

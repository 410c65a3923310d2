#include "codes.hpp"

#include <cstring>
#include <stdexcept>
#include <string>

namespace tersor {
namespace {

constexpr std::uint64_t magic = 0x3153454459444f43;  // "CODYDES1"

[[noreturn]] void fail(const std::string& what) { throw std::invalid_argument("code matrix: " + what); }

struct Layout {
    std::size_t table, codes, total;
};

Layout layout_of(const CodeMatrix& m) {
    if (m.rows < 1 || m.columns < 1 || m.rows > INT32_MAX || m.columns > INT32_MAX)
        fail(std::to_string(m.rows) + " x " + std::to_string(m.columns) + ", expected sides of 1 to 2^31 - 1");
    if (m.bits != 1 && m.bits != 2 && m.bits != 4 && m.bits != 8)
        fail("codes of " + std::to_string(m.bits) + " bits, expected 1, 2, 4 or 8");
    if (m.row_books > 1) fail("neither one codebook nor one a row");
    Layout l{};
    l.table = 64;
    l.codes = l.table + (m.row_books == 1 ? m.rows : 1) * m.book_size() * sizeof(float);
    l.total = l.codes + m.rows * m.groups() * 64;
    return l;
}

// Where the code of a column stands: its byte and its shift.
struct Place {
    std::size_t byte;
    unsigned shift;
};

Place place_of(const CodeMatrix& m, std::uint64_t row, std::uint64_t column) {
    const std::uint64_t group = column / m.group_columns(), in = column % m.group_columns();
    const std::uint64_t bit = in / 16 * m.bits;  // of the lane's 32-bit word
    return {(row * m.groups() + group) * 64 + in % 16 * 4 + bit / 8, static_cast<unsigned>(bit % 8)};
}

}  // namespace

std::size_t codes_bytes(const CodeMatrix& shape) { return layout_of(shape).total; }

void codes_pack(const CodeMatrix& shape, Span<const std::uint16_t> codes, Span<const float> books,
                Span<std::uint8_t> out) {
    const Layout l = layout_of(shape);
    if (out.size != l.total) fail(std::to_string(out.size) + " bytes, expected " + std::to_string(l.total));
    if (codes.size != shape.rows * shape.columns) fail(std::to_string(codes.size) + " codes");
    const std::size_t range = std::size_t{1} << shape.bits;
    if (shape.row_books == 1 ? books.size != shape.rows * range : (books.size < 1 || books.size > range))
        fail("a table of " + std::to_string(books.size) + " values");
    std::memset(out.data, 0, out.size);
    const std::uint64_t head[] = {magic, shape.rows, shape.columns, shape.bits, shape.row_books};
    std::memcpy(out.data, head, sizeof head);
    auto* to = reinterpret_cast<float*>(out.data + l.table);
    const std::size_t of_book = shape.row_books == 1 ? range : books.size;
    for (std::size_t book = 0; book * of_book < books.size; ++book, to += shape.book_size()) {
        std::memcpy(to, books.data + book * of_book, of_book * sizeof(float));
        for (std::size_t i = range; i < shape.book_size(); ++i) to[i] = to[i % range];
    }
    for (std::uint64_t row = 0; row < shape.rows; ++row)
        for (std::uint64_t column = 0; column < shape.columns; ++column) {
            const std::uint16_t code = codes.data[row * shape.columns + column];
            if (code >= of_book) fail("code " + std::to_string(code) + " at row " + std::to_string(row));
            const Place p = place_of(shape, row, column);
            out.data[l.codes + p.byte] = static_cast<std::uint8_t>(out.data[l.codes + p.byte] | code << p.shift);
        }
}

CodeMatrix codes_view(Span<const std::uint8_t> bytes) {
    std::uint64_t head[5];
    if (bytes.size < 64) fail(std::to_string(bytes.size) + " bytes hold none");
    std::memcpy(head, bytes.data, sizeof head);
    if (head[0] != magic) fail("the bytes hold none");
    CodeMatrix m;
    m.rows = head[1], m.columns = head[2], m.bits = head[3], m.row_books = head[4];
    const Layout l = layout_of(m);
    if (l.total != bytes.size) fail(std::to_string(bytes.size) + " bytes, expected " + std::to_string(l.total));
    m.codes = bytes.data + l.codes;
    m.books = reinterpret_cast<const float*>(bytes.data + l.table);
    return m;
}

void codes_to_dense(const CodeMatrix& m, float* out) {
    const unsigned mask = (1u << m.bits) - 1;
    for (std::uint64_t row = 0; row < m.rows; ++row)
        for (std::uint64_t column = 0; column < m.columns; ++column) {
            const Place p = place_of(m, row, column);
            out[row * m.columns + column] = m.book(row)[m.codes[p.byte] >> p.shift & mask];
        }
}

}  // namespace tersor

#include "sparse.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace tersor {
namespace {

constexpr std::uint64_t magic = 0x3145535241505354;  // "TSPARSE1"
constexpr std::size_t slack = 32;                     // words that a kernel may read past the last
constexpr std::size_t book_size = 256;

// Every part begins at a multiple of 64 bytes.
struct Layout {
    std::size_t starts, counts, words, values, book, total;
};

[[noreturn]] void fail(const std::string& what) { throw std::invalid_argument("sparse matrix: " + what); }

Layout layout_of(const SparseShape& s) {
    if (s.rows < 1 || s.columns < 1 || s.rows > INT32_MAX || s.columns > INT32_MAX)
        fail(std::to_string(s.rows) + " x " + std::to_string(s.columns) + ", expected sides of 1 to 2^31 - 1");
    if (s.row_block < 1 || s.row_block > 4096)
        fail("blocks of " + std::to_string(s.row_block) + " rows, expected 1 to 4096");
    if (s.code_bits != 0 && (s.code_bits < 4 || s.code_bits > 8))
        fail("codes of " + std::to_string(s.code_bits) + " bits, expected 0 or 4 to 8");
    // A tile's count must fit 16 bits, too.
    if (s.tile < 1 || s.tile > 32768 || (s.tile << s.code_bits) > 65536)
        fail("tiles of " + std::to_string(s.tile) + " columns do not fit 16 bits beside codes of " +
             std::to_string(s.code_bits));
    if (s.entries > s.rows * s.columns)
        fail(std::to_string(s.entries) + " entries in " + std::to_string(s.rows * s.columns) + " places");
    const auto up = [](std::size_t bytes) { return (bytes + 63) / 64 * 64; };
    Layout l{};
    std::size_t at = 64;
    l.starts = at;
    at += up((s.blocks() + 1) * 8);
    l.counts = at;
    at += up(s.blocks() * s.tiles() * s.row_block * 2);
    l.words = at;
    at += up((s.entries + slack) * 2);
    l.values = at;
    if (s.code_bits == 0) at += up((s.entries + slack) * 4);
    l.book = at;
    if (s.code_bits != 0) at += book_size * 4;
    l.total = at;
    return l;
}

// Where the runs of a row's tiles begin: run (block, tile, row) at `at[tile * row_block + row]`.
std::vector<std::uint64_t> run_starts(const SparseMatrix& m, std::uint64_t block) {
    const std::uint64_t runs = m.tiles() * m.row_block;
    std::vector<std::uint64_t> at(runs);
    std::uint64_t next = m.starts[block];
    for (std::uint64_t i = 0; i < runs; ++i) {
        at[i] = next;
        next += m.counts[block * runs + i];
    }
    return at;
}

float value_of(const SparseMatrix& m, std::uint64_t entry) {
    return m.code_bits == 0 ? m.values[entry] : m.book[m.words[entry] & ((1u << m.code_bits) - 1)];
}

}  // namespace

std::size_t sparse_bytes(const SparseShape& shape) { return layout_of(shape).total; }

void sparse_pack(const SparseShape& shape, Span<const std::int64_t> positions,
                 Span<const std::uint16_t> codes, Span<const float> book, Span<const float> values,
                 Span<std::uint8_t> out) {
    const Layout l = layout_of(shape);
    const bool coded = shape.code_bits != 0;
    if (out.size != l.total) fail(std::to_string(out.size) + " bytes, expected " + std::to_string(l.total));
    if (positions.size != shape.entries || (coded ? codes.size : values.size) != shape.entries)
        fail("positions and values that do not agree in number");
    if (coded && (book.size < 1 || book.size > (std::size_t{1} << shape.code_bits)))
        fail("a codebook of " + std::to_string(book.size) + " for codes of " + std::to_string(shape.code_bits) + " bits");

    std::memset(out.data, 0, out.size);
    const std::uint64_t head[] = {magic, shape.rows, shape.columns, shape.row_block, shape.tile, shape.code_bits, shape.entries};
    std::memcpy(out.data, head, sizeof head);
    auto* starts = reinterpret_cast<std::uint64_t*>(out.data + l.starts);
    auto* counts = reinterpret_cast<std::uint16_t*>(out.data + l.counts);
    auto* words = reinterpret_cast<std::uint16_t*>(out.data + l.words);
    auto* direct = reinterpret_cast<float*>(out.data + l.values);
    if (coded) std::memcpy(out.data + l.book, book.data, book.size * sizeof(float));

    const auto run_of = [&](std::uint64_t row, std::uint64_t column) {
        return (row / shape.row_block * shape.tiles() + column / shape.tile) * shape.row_block + row % shape.row_block;
    };
    std::int64_t last = -1;
    for (std::size_t i = 0; i < positions.size; ++i) {
        const std::int64_t p = positions.data[i];
        if (p <= last || static_cast<std::uint64_t>(p) >= shape.rows * shape.columns)
            fail("position " + std::to_string(p) + " after " + std::to_string(last));
        if (coded && codes.data[i] >= book.size)
            fail("code " + std::to_string(codes.data[i]) + ", but the codebook has " + std::to_string(book.size));
        last = p;
        const auto place = static_cast<std::uint64_t>(p);
        ++counts[run_of(place / shape.columns, place % shape.columns)];
    }
    const std::uint64_t runs = shape.tiles() * shape.row_block;
    std::vector<std::uint64_t> next(shape.blocks() * runs);
    std::uint64_t at = 0;
    for (std::uint64_t block = 0; block < shape.blocks(); ++block) {
        starts[block] = at;
        for (std::uint64_t i = block * runs; i < (block + 1) * runs; ++i) {
            next[i] = at;
            at += counts[i];
        }
    }
    starts[shape.blocks()] = at;
    for (std::size_t i = 0; i < positions.size; ++i) {
        const auto place = static_cast<std::uint64_t>(positions.data[i]);
        const std::uint64_t column = place % shape.columns;
        const std::uint64_t to = next[run_of(place / shape.columns, column)]++;
        const unsigned code = coded ? codes.data[i] : 0;
        words[to] = static_cast<std::uint16_t>((column % shape.tile) << shape.code_bits | code);
        if (!coded) direct[to] = values.data[i];
    }
}

SparseMatrix sparse_view(Span<const std::uint8_t> bytes) {
    std::uint64_t head[7];
    if (bytes.size < 64) fail(std::to_string(bytes.size) + " bytes hold none");
    std::memcpy(head, bytes.data, sizeof head);
    if (head[0] != magic) fail("the bytes hold none");
    SparseMatrix m;
    m.rows = head[1], m.columns = head[2], m.row_block = head[3], m.tile = head[4], m.code_bits = head[5], m.entries = head[6];
    const Layout l = layout_of(m);
    if (l.total != bytes.size) fail(std::to_string(bytes.size) + " bytes, expected " + std::to_string(l.total));
    m.starts = reinterpret_cast<const std::uint64_t*>(bytes.data + l.starts);
    m.counts = reinterpret_cast<const std::uint16_t*>(bytes.data + l.counts);
    m.words = reinterpret_cast<const std::uint16_t*>(bytes.data + l.words);
    if (m.code_bits == 0) m.values = reinterpret_cast<const float*>(bytes.data + l.values);
    if (m.code_bits != 0) m.book = reinterpret_cast<const float*>(bytes.data + l.book);
    return m;
}

void sparse_check(const SparseMatrix& m) {
    const std::uint64_t runs = m.tiles() * m.row_block;
    std::uint64_t at = 0;
    for (std::uint64_t block = 0; block < m.blocks(); ++block) {
        if (m.starts[block] != at) fail("block " + std::to_string(block) + " begins at another entry than its counts say");
        for (std::uint64_t i = 0; i < runs; ++i) {
            const std::uint64_t tile = i / m.row_block, row = i % m.row_block;
            const std::uint64_t width = std::min(m.tile, m.columns - tile * m.tile);
            const std::uint16_t count = m.counts[block * runs + i];
            if (count > width || count > m.entries - at || (count != 0 && row >= m.block_rows(block)))
                fail("a count of " + std::to_string(count) + " entries");
            for (std::uint64_t e = at; e < at + count; ++e)
                if ((std::uint64_t{m.words[e]} >> m.code_bits) >= width) fail("entry " + std::to_string(e) + " lies outside its tile");
            at += count;
        }
    }
    if (m.starts[m.blocks()] != at || at != m.entries) fail("counts that do not sum up to the entries");
}

void sparse_to_dense(const SparseMatrix& m, float* out) {
    for (std::uint64_t block = 0; block < m.blocks(); ++block) {
        const auto at = run_starts(m, block);
        for (std::uint64_t i = 0; i < at.size(); ++i) {
            const std::uint64_t row = block * m.row_block + i % m.row_block, first = i / m.row_block * m.tile;
            const std::uint64_t count = m.counts[block * at.size() + i];
            for (std::uint64_t e = at[i]; e < at[i] + count; ++e)
                out[row * m.columns + first + (m.words[e] >> m.code_bits)] = value_of(m, e);
        }
    }
}

void sparse_row(const SparseMatrix& m, std::uint64_t row, float* out) {
    std::fill(out, out + m.columns, 0.0f);
    std::uint64_t e = m.starts[row];
    for (std::uint64_t tile = 0; tile < m.tiles(); ++tile)
        for (std::uint64_t n = m.counts[row * m.tiles() + tile]; n > 0; --n, ++e)
            out[tile * m.tile + (m.words[e] >> m.code_bits)] = value_of(m, e);
}

}  // namespace tersor

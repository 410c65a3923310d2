// Where the kernels meet Python. Tensors come as addresses and sizes (`data_ptr()`), since a call
// must cost less than a small layer: `tersor.run` checks dtype, shape, device and contiguity.
#include "binding.hpp"

#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "linear.hpp"
#include "recurrent.hpp"
#include "threads.hpp"

namespace nb = nanobind;

namespace tersor {
namespace {

using Address = std::uintptr_t;

template <class T>
using In = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <class T>
Span<const T> view(const In<T>& a) {
    return {a.data(), a.size()};
}

template <class T>
T* at(Address address) {
    return reinterpret_cast<T*>(address);
}

Span<const std::uint8_t> bytes_at(Address address, std::size_t size) { return {at<const std::uint8_t>(address), size}; }

// A layer of a chain: whether its weights are codes, where they are, scale, bias, activation.
using ChainLink = std::tuple<bool, Address, std::size_t, Address, Address, int>;

Finish finish_of(Address scale, Address bias, int activation) {
    if (activation < 0 || activation > static_cast<int>(Activation::silu))
        throw std::invalid_argument("activation " + std::to_string(activation));
    return {at<const float>(scale), at<const float>(bias), static_cast<Activation>(activation)};
}

SparseShape shape_of(std::size_t rows, std::size_t columns, std::size_t row_block, std::size_t tile,
                     std::size_t code_bits, std::size_t entries) {
    SparseShape s;
    s.rows = rows, s.columns = columns, s.row_block = row_block, s.tile = tile, s.code_bits = code_bits, s.entries = entries;
    return s;
}

CodeMatrix code_shape(std::size_t rows, std::size_t columns, std::size_t bits, bool row_books) {
    CodeMatrix m;
    m.rows = rows, m.columns = columns, m.bits = bits, m.row_books = row_books ? 1 : 0;
    return m;
}

IntegerMatrix integer_shape(std::size_t rows, std::size_t columns, std::size_t bits, std::size_t group) {
    IntegerMatrix m;
    m.rows = rows, m.columns = columns, m.bits = bits, m.group = group;
    return m;
}

PackedMatrix packed_view(Address weights, std::size_t size, bool coded) {
    PackedMatrix m;
    m.coded = coded;
    if (coded)
        m.dense = dense_view(bytes_at(weights, size));
    else
        m.sparse = sparse_view(bytes_at(weights, size));
    return m;
}

}  // namespace

void bind_kernels(nb::module_& m) {
    m.def("isa_names", [] {
        std::size_t count = 0;
        const char* const* names = isa_names(&count);
        nb::list all;
        for (std::size_t i = 0; i < count; ++i) all.append(names[i]);
        return all;
    });
    m.def("isa", [] { return kernels().name; });
    m.def("force_isa", [](const char* name) { force_isa(name); }, nb::arg("name"));
    m.def("threads_kind", &threads_kind);

    m.def("sparse_bytes", [](std::size_t rows, std::size_t columns, std::size_t row_block, std::size_t tile, std::size_t code_bits, std::size_t entries) {
        return sparse_bytes(shape_of(rows, columns, row_block, tile, code_bits, entries));
    }, nb::arg("rows"), nb::arg("columns"), nb::arg("row_block"), nb::arg("tile"), nb::arg("code_bits"), nb::arg("entries"));
    m.def("sparse_pack", [](std::size_t rows, std::size_t columns, std::size_t row_block, std::size_t tile, std::size_t code_bits,
                            const In<std::int64_t>& positions, const In<std::uint16_t>& codes, const In<float>& book,
                            const In<float>& values, const Bytes& out) {
        const auto p = view<std::int64_t>(positions);
        const auto c = view<std::uint16_t>(codes);
        const auto b = view<float>(book), v = view<float>(values);
        const Span<std::uint8_t> to{out.data(), out.size()};
        nb::gil_scoped_release release;
        sparse_pack(shape_of(rows, columns, row_block, tile, code_bits, p.size), p, c, b, v, to);
    }, nb::arg("rows"), nb::arg("columns"), nb::arg("row_block"), nb::arg("tile"), nb::arg("code_bits"), nb::arg("positions"),
       nb::arg("codes"), nb::arg("book"), nb::arg("values"), nb::arg("out"));
    m.def("sparse_check", [](const In<std::uint8_t>& weights) { sparse_check(sparse_view(view<std::uint8_t>(weights))); }, nb::arg("weights"));
    m.def("sparse_shape", [](Address weights, std::size_t size) {
        const SparseMatrix s = sparse_view(bytes_at(weights, size));
        return nb::make_tuple(s.rows, s.columns, s.row_block, s.tile, s.code_bits, s.entries);
    }, nb::arg("weights"), nb::arg("size"));
    m.def("sparse_dense", [](Address weights, std::size_t size, Address out) {
        nb::gil_scoped_release release;
        sparse_to_dense(sparse_view(bytes_at(weights, size)), at<float>(out));
    }, nb::arg("weights"), nb::arg("size"), nb::arg("out"));
    m.def("sparse_linear", [](Address weights, std::size_t size, Address x, std::size_t batch, Address out, Address scale, Address bias, int activation, int threads) {
        nb::gil_scoped_release release;
        sparse_linear(sparse_view(bytes_at(weights, size)), at<const float>(x), batch, at<float>(out), finish_of(scale, bias, activation), threads);
    });
    m.def("sparse_rows", [](Address weights, std::size_t size, Address ids, std::size_t count, Address out, int threads) {
        const SparseMatrix s = sparse_view(bytes_at(weights, size));
        const auto* first = at<const std::int64_t>(ids);
        for (std::size_t i = 0; i < count; ++i)
            if (first[i] < 0 || static_cast<std::uint64_t>(first[i]) >= s.rows)
                throw nb::index_error(("embedding: index " + std::to_string(first[i]) + ", expected 0 to " + std::to_string(s.rows - 1)).c_str());
        nb::gil_scoped_release release;
        sparse_rows(s, first, count, at<float>(out), threads);
    });
    m.def("sparse_convolution", [](Address weights, std::size_t size, Address x, std::size_t images, std::size_t channels, std::size_t height, std::size_t width,
                                   std::size_t kernel_y, std::size_t kernel_x, std::size_t stride_y, std::size_t stride_x, std::size_t padding_y, std::size_t padding_x,
                                   std::size_t dilation_y, std::size_t dilation_x, Address out, Address scale, Address bias, int activation, int threads) {
        const Convolution c{images, channels, height, width, {kernel_y, kernel_x}, {stride_y, stride_x}, {padding_y, padding_x}, {dilation_y, dilation_x}};
        nb::gil_scoped_release release;
        sparse_convolution(sparse_view(bytes_at(weights, size)), c, at<const float>(x), at<float>(out), finish_of(scale, bias, activation), threads);
    });

    m.def("codes_bytes", [](std::size_t rows, std::size_t columns, std::size_t bits, bool row_books) { return codes_bytes(code_shape(rows, columns, bits, row_books)); },
          nb::arg("rows"), nb::arg("columns"), nb::arg("bits"), nb::arg("row_books"));
    m.def("codes_pack", [](std::size_t rows, std::size_t columns, std::size_t bits, bool row_books, const In<std::uint16_t>& codes, const In<float>& books, const Bytes& out) {
        const auto c = view<std::uint16_t>(codes);
        const auto b = view<float>(books);
        const Span<std::uint8_t> to{out.data(), out.size()};
        nb::gil_scoped_release release;
        codes_pack(code_shape(rows, columns, bits, row_books), c, b, to);
    }, nb::arg("rows"), nb::arg("columns"), nb::arg("bits"), nb::arg("row_books"), nb::arg("codes"), nb::arg("books"), nb::arg("out"));
    m.def("integers_bytes", [](std::size_t rows, std::size_t columns, std::size_t bits, std::size_t group) { return integers_bytes(integer_shape(rows, columns, bits, group)); },
          nb::arg("rows"), nb::arg("columns"), nb::arg("bits"), nb::arg("group"));
    m.def("integers_pack", [](std::size_t rows, std::size_t columns, std::size_t bits, std::size_t group, const In<std::int16_t>& integers, const In<float>& scales, const Bytes& out) {
        const auto i = view<std::int16_t>(integers);
        const auto s = view<float>(scales);
        const Span<std::uint8_t> to{out.data(), out.size()};
        nb::gil_scoped_release release;
        integers_pack(integer_shape(rows, columns, bits, group), i, s, to);
    }, nb::arg("rows"), nb::arg("columns"), nb::arg("bits"), nb::arg("group"), nb::arg("integers"), nb::arg("scales"), nb::arg("out"));
    m.def("codes_shape", [](Address weights, std::size_t size) {
        const DenseMatrix d = dense_view(bytes_at(weights, size));
        return nb::make_tuple(d.rows(), d.columns());
    }, nb::arg("weights"), nb::arg("size"));
    m.def("codes_dense", [](Address weights, std::size_t size, Address out) {
        nb::gil_scoped_release release;
        const DenseMatrix d = dense_view(bytes_at(weights, size));
        d.whole ? integers_to_dense(d.integers, at<float>(out)) : codes_to_dense(d.codes, at<float>(out));
    }, nb::arg("weights"), nb::arg("size"), nb::arg("out"));
    m.def("codes_linear", [](Address weights, std::size_t size, Address x, std::size_t batch, Address out, Address scale, Address bias, int activation, int threads) {
        nb::gil_scoped_release release;
        dense_linear(dense_view(bytes_at(weights, size)), at<const float>(x), batch, at<float>(out), finish_of(scale, bias, activation), threads);
    });
    m.def("recurrent", [](int cell, bool reverse, Address input, std::size_t input_size, bool input_coded, Address hidden, std::size_t hidden_size, bool hidden_coded,
                          Address input_bias, Address hidden_bias, Address x, std::size_t steps, std::size_t batch, std::size_t inputs, std::size_t units,
                          Address h, Address c, Address out, std::size_t stride, int threads) {
        if (cell != 0 && cell != 1) throw std::invalid_argument("cell " + std::to_string(cell));
        const Recurrence layer{static_cast<Cell>(cell), packed_view(input, input_size, input_coded), packed_view(hidden, hidden_size, hidden_coded),
                               at<const float>(input_bias), at<const float>(hidden_bias), reverse};
        if (layer.input.columns() != inputs || layer.recurrent.columns() != units)
            throw std::invalid_argument("recurrent layer: " + std::to_string(inputs) + " inputs and " + std::to_string(units) + " units, expected " +
                                        std::to_string(layer.input.columns()) + " and " + std::to_string(layer.recurrent.columns()));
        nb::gil_scoped_release release;
        recurrent(layer, at<const float>(x), steps, batch, at<float>(h), at<float>(c), at<float>(out), stride, threads);
    });
    m.def("linear_chain", [](const std::vector<ChainLink>& links, Address x, std::size_t batch, Address out, int threads) {
        std::vector<LinearLayer> layers;
        for (const auto& [coded, weights, size, scale, bias, activation] : links) {
            LinearLayer layer;
            layer.coded = coded;
            if (coded)
                layer.dense = dense_view(bytes_at(weights, size));
            else
                layer.sparse = sparse_view(bytes_at(weights, size));
            layer.finish = finish_of(scale, bias, activation);
            if (!layers.empty() && layers.back().rows() != layer.columns())
                throw std::invalid_argument("a layer of " + std::to_string(layer.columns()) + " columns behind one of " +
                                            std::to_string(layers.back().rows()) + " rows");
            layers.push_back(layer);
        }
        nb::gil_scoped_release release;
        linear_chain(layers.data(), layers.size(), at<const float>(x), batch, at<float>(out), threads);
    });
    m.def("max_pool", [](Address x, std::size_t planes, std::size_t height, std::size_t width, std::size_t kernel_y, std::size_t kernel_x, std::size_t stride_y,
                         std::size_t stride_x, std::size_t padding_y, std::size_t padding_x, Address out, int threads) {
        const Pooling p{planes, height, width, {kernel_y, kernel_x}, {stride_y, stride_x}, {padding_y, padding_x}};
        nb::gil_scoped_release release;
        max_pool(p, at<const float>(x), at<float>(out), threads);
    });
}

}  // namespace tersor

// Where C++ meets Python: checks dtype, shape and contiguity, releases the GIL, translates errors.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "bits.hpp"
#include "context.hpp"
#include "errors.hpp"
#include "histograms.hpp"
#include "huffman.hpp"
#include "kernels/binding.hpp"
#include "kmeans.hpp"
#include "planes.hpp"
#include "rans.hpp"
#include "selection.hpp"
#include "span.hpp"

namespace nb = nanobind;

namespace {

using tersor::Span;

template <class T>
using In = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Out = nb::ndarray<nb::numpy, T, nb::ndim<1>>;

template <class T>
Span<const T> view(const In<T>& array) {
    return {array.data(), array.size()};
}

// Memory that is not set to zero first, handed over to NumPy.
template <class T>
struct Buffer {
    explicit Buffer(std::size_t n) : memory(new T[n]), size(n) {}
    Span<T> span() const { return {memory.get(), size}; }
    Out<T> release() {
        T* data = memory.release();
        nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
        return Out<T>(data, {size}, owner);
    }
    std::unique_ptr<T[]> memory;
    std::size_t size;
};

template <class T>
Out<T> to_numpy(const std::vector<T>& values) {
    Buffer<T> buffer(values.size());
    for (std::size_t i = 0; i < values.size(); ++i) buffer.memory[i] = values[i];
    return buffer.release();
}

nb::tuple to_python(const tersor::Clusters& clusters) {
    return nb::make_tuple(to_numpy(clusters.centroids), to_numpy(clusters.boundaries),
                          clusters.wcss, clusters.least);
}

template <class Float>
nb::tuple kmeans_1d(const In<Float>& values, const In<double>& weights, std::size_t k,
                    std::size_t bins) {
    tersor::Clusters clusters;
    {
        nb::gil_scoped_release release;
        clusters = tersor::kmeans_1d(view<Float>(values), view<double>(weights), k, bins);
    }
    return to_python(clusters);
}

template <class Float>
nb::tuple lloyd(const In<Float>& values, const In<double>& weights, const In<double>& centroids,
                std::size_t steps) {
    tersor::Clusters clusters;
    {
        nb::gil_scoped_release release;
        clusters = tersor::lloyd(view<Float>(values), view<double>(weights),
                                 view<double>(centroids), steps);
    }
    return to_python(clusters);
}

template <class Float>
Out<std::int32_t> count_below(const In<Float>& values, const In<double>& borders) {
    Buffer<std::int32_t> out(values.size());
    {
        nb::gil_scoped_release release;
        tersor::count_below(view<Float>(values), view<double>(borders), out.span());
    }
    return out.release();
}

Out<std::uint8_t> pack_bits(const In<std::uint16_t>& codes, unsigned width) {
    const auto in = view<std::uint16_t>(codes);
    Buffer<std::uint8_t> out(tersor::packed_bytes(in.size, width));
    {
        nb::gil_scoped_release release;
        tersor::pack(in, width, out.span());
    }
    return out.release();
}

// A count is checked against the bytes that are there before anything is allocated for it.
Out<std::uint16_t> unpack_bits(const In<std::uint8_t>& data, unsigned width, std::size_t count) {
    const auto in = view<std::uint8_t>(data);
    if (tersor::packed_bytes(count, width) != in.size)
        tersor::unpack(in, width, {nullptr, count});  // throws, and touches nothing
    Buffer<std::uint16_t> out(count);
    {
        nb::gil_scoped_release release;
        tersor::unpack(in, width, out.span());
    }
    return out.release();
}

Out<std::uint8_t> huffman_lengths(const In<std::uint64_t>& counts, unsigned max_length) {
    const auto in = view<std::uint64_t>(counts);
    std::vector<std::uint8_t> lengths;
    {
        nb::gil_scoped_release release;
        lengths = tersor::huffman_lengths(in, max_length);
    }
    return to_numpy(lengths);
}

Out<std::uint8_t> huffman_encode(const In<std::uint16_t>& symbols, const In<std::uint8_t>& lengths) {
    const auto in = view<std::uint16_t>(symbols);
    const auto table = view<std::uint8_t>(lengths);
    std::vector<std::uint8_t> stream;
    {
        nb::gil_scoped_release release;
        stream = tersor::huffman_encode(in, table);
    }
    return to_numpy(stream);
}

Out<std::uint16_t> huffman_decode(const In<std::uint8_t>& data, const In<std::uint8_t>& lengths,
                                  std::size_t count) {
    const auto in = view<std::uint8_t>(data);
    const tersor::HuffmanDecoder decoder(view<std::uint8_t>(lengths));
    decoder.check(in.size, count);
    Buffer<std::uint16_t> out(count);
    {
        nb::gil_scoped_release release;
        decoder.decode(in, out.span());
    }
    return out.release();
}

std::uint64_t rans_estimate(const In<std::uint64_t>& counts) {
    return tersor::rans_table(view<std::uint64_t>(counts)).stream_bytes;
}

Out<std::uint8_t> rans_encode(const In<std::uint16_t>& symbols, std::size_t alphabet) {
    const auto in = view<std::uint16_t>(symbols);
    std::vector<std::uint8_t> stream;
    {
        nb::gil_scoped_release release;
        stream = tersor::rans_encode(in, alphabet);
    }
    return to_numpy(stream);
}

Out<std::uint16_t> rans_decode(const In<std::uint8_t>& data, std::size_t alphabet,
                               std::size_t count) {
    tersor::RansDecoder decoder(view<std::uint8_t>(data), alphabet, count);
    Buffer<std::uint16_t> out(count);
    {
        nb::gil_scoped_release release;
        decoder.decode(out.span());
        decoder.finish();
    }
    return out.release();
}

// Words come and go as bytes: what they mean is the caller's.
nb::tuple planes_encode(const In<std::uint8_t>& words, std::size_t word_size, bool rotate) {
    const auto in = view<std::uint8_t>(words);
    tersor::Planes planes;
    {
        nb::gil_scoped_release release;
        planes = tersor::planes_encode(in, word_size, rotate);
    }
    return nb::make_tuple(to_numpy(planes.stream), to_numpy(planes.lengths));
}

template <class T>
using InPlace = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void planes_decode(const In<std::uint8_t>& data, const In<std::uint64_t>& lengths, bool rotate,
                   const InPlace<std::uint8_t>& words) {
    nb::gil_scoped_release release;
    tersor::planes_decode(view<std::uint8_t>(data), view<std::uint64_t>(lengths), rotate,
                          {words.data(), words.size()});
}

Out<std::uint8_t> map_encode(const In<std::uint8_t>& map, std::size_t rows, std::size_t columns,
                             std::size_t kernel, std::size_t lag) {
    const auto in = view<std::uint8_t>(map);
    std::vector<std::uint8_t> stream;
    {
        nb::gil_scoped_release release;
        stream = tersor::map_encode(in, {rows, columns, kernel, lag});
    }
    return to_numpy(stream);
}

void map_decode(const In<std::uint8_t>& data, std::size_t rows, std::size_t columns,
                std::size_t kernel, std::size_t lag, const InPlace<std::uint8_t>& map) {
    nb::gil_scoped_release release;
    tersor::map_decode(view<std::uint8_t>(data), {rows, columns, kernel, lag},
                       {map.data(), map.size()});
}

Out<std::uint8_t> codes_encode(const In<std::uint16_t>& codes, std::size_t alphabet,
                               const In<std::uint8_t>& map, std::size_t rows, std::size_t columns,
                               std::size_t lag) {
    const auto in = view<std::uint16_t>(codes);
    const auto where = view<std::uint8_t>(map);
    std::vector<std::uint8_t> stream;
    {
        nb::gil_scoped_release release;
        stream = tersor::codes_encode(in, alphabet, where, {rows, columns, 1, lag});
    }
    return to_numpy(stream);
}

Out<std::uint16_t> codes_decode(const In<std::uint8_t>& data, std::size_t alphabet,
                                const In<std::uint8_t>& map, std::size_t rows,
                                std::size_t columns, std::size_t lag, std::size_t count) {
    const auto in = view<std::uint8_t>(data);
    const auto where = view<std::uint8_t>(map);
    if (count > where.size) throw tersor::FormatError("more codes than places");
    Buffer<std::uint16_t> out(count);
    {
        nb::gil_scoped_release release;
        tersor::codes_decode(in, alphabet, where, {rows, columns, 1, lag}, out.span());
    }
    return out.release();
}

template <class Float>
void add_digits(const In<Float>& numbers, unsigned shift, std::uint64_t prefix, std::int64_t cost,
                const InPlace<std::int64_t>& counts) {
    nb::gil_scoped_release release;
    tersor::add_digits(view<Float>(numbers), shift, prefix, cost, {counts.data(), counts.size()});
}

nb::tuple pay(const In<std::int64_t>& counts, std::int64_t budget) {
    const tersor::Paid paid = tersor::pay(view<std::int64_t>(counts), budget);
    return nb::make_tuple(paid.digits, paid.left);
}

template <class Float>
nb::tuple count_above(const In<Float>& numbers, std::int64_t key) {
    tersor::Above found;
    {
        nb::gil_scoped_release release;
        found = tersor::count_above(view<Float>(numbers), key);
    }
    return nb::make_tuple(found.above, found.ties);
}

template <class Float>
std::uint64_t mark_above(const In<Float>& numbers, std::int64_t key, std::uint64_t ties,
                         const InPlace<bool>& out) {
    nb::gil_scoped_release release;
    return tersor::mark_above(view<Float>(numbers), key, ties, {out.data(), out.size()});
}

// As `In`, but the numbers may lie apart.
using Spread = nb::ndarray<const float, nb::ndim<1>, nb::device::cpu>;

std::uint64_t count_into_bins(const Spread& values, float width,
                              const InPlace<std::int64_t>& counts) {
    nb::gil_scoped_release release;
    return tersor::count_into_bins(values.data(), values.size(), values.stride(0), width,
                                   {counts.data(), counts.size()});
}

Out<std::int64_t> kl_thresholds(const In<std::int64_t>& counts, std::size_t histograms,
                                std::size_t levels) {
    Buffer<std::int64_t> out(histograms);
    {
        nb::gil_scoped_release release;
        tersor::kl_thresholds(view<std::int64_t>(counts), levels, out.span());
    }
    return out.release();
}

Out<double> histogram_errors(const In<double>& centers, const In<double>& counts,
                             const In<double>& scales, const In<double>& zero_points, double low,
                             double high) {
    Buffer<double> out(scales.size());
    {
        nb::gil_scoped_release release;
        tersor::histogram_errors(view<double>(centers), view<double>(counts), view<double>(scales),
                                 view<double>(zero_points), low, high, out.span());
    }
    return out.release();
}

template <class Float>
void define_selection(nb::module_& m) {
    m.def("add_digits", &add_digits<Float>, nb::arg("numbers").noconvert(), nb::arg("shift"),
          nb::arg("prefix"), nb::arg("cost"), nb::arg("counts").noconvert());
    m.def("count_above", &count_above<Float>, nb::arg("numbers").noconvert(), nb::arg("key"));
    m.def("mark_above", &mark_above<Float>, nb::arg("numbers").noconvert(), nb::arg("key"),
          nb::arg("ties"), nb::arg("out").noconvert());
}

template <class Float>
void define_kmeans(nb::module_& m) {
    m.def("kmeans_1d", &kmeans_1d<Float>, nb::arg("values").noconvert(),
          nb::arg("weights").noconvert(), nb::arg("k"), nb::arg("bins"));
    m.def("lloyd", &lloyd<Float>, nb::arg("values").noconvert(), nb::arg("weights").noconvert(),
          nb::arg("centroids").noconvert(), nb::arg("steps"));
    m.def("count_below", &count_below<Float>, nb::arg("values").noconvert(),
          nb::arg("borders").noconvert());
}

}  // namespace

NB_MODULE(_native, m) {
    nb::exception<tersor::FormatError>(m, "FormatError", PyExc_ValueError);
    m.def("pack_bits", &pack_bits, nb::arg("codes").noconvert(), nb::arg("width"));
    m.def("unpack_bits", &unpack_bits, nb::arg("data").noconvert(), nb::arg("width"),
          nb::arg("count"));
    m.def("huffman_lengths", &huffman_lengths, nb::arg("counts").noconvert(),
          nb::arg("max_length") = tersor::kMaxCodeLength);
    m.def("huffman_encode", &huffman_encode, nb::arg("symbols").noconvert(),
          nb::arg("lengths").noconvert());
    m.def("huffman_decode", &huffman_decode, nb::arg("data").noconvert(),
          nb::arg("lengths").noconvert(), nb::arg("count"));
    m.def("rans_estimate", &rans_estimate, nb::arg("counts").noconvert());
    m.def("rans_encode", &rans_encode, nb::arg("symbols").noconvert(), nb::arg("alphabet"));
    m.def("rans_decode", &rans_decode, nb::arg("data").noconvert(), nb::arg("alphabet"),
          nb::arg("count"));
    m.def("planes_encode", &planes_encode, nb::arg("words").noconvert(), nb::arg("word_size"),
          nb::arg("rotate"));
    m.def("planes_decode", &planes_decode, nb::arg("data").noconvert(),
          nb::arg("lengths").noconvert(), nb::arg("rotate"), nb::arg("words").noconvert());
    m.def("map_encode", &map_encode, nb::arg("map").noconvert(), nb::arg("rows"),
          nb::arg("columns"), nb::arg("kernel"), nb::arg("lag"));
    m.def("map_decode", &map_decode, nb::arg("data").noconvert(), nb::arg("rows"),
          nb::arg("columns"), nb::arg("kernel"), nb::arg("lag"), nb::arg("map").noconvert());
    m.def("codes_encode", &codes_encode, nb::arg("codes").noconvert(), nb::arg("alphabet"),
          nb::arg("map").noconvert(), nb::arg("rows"), nb::arg("columns"), nb::arg("lag"));
    m.def("codes_decode", &codes_decode, nb::arg("data").noconvert(), nb::arg("alphabet"),
          nb::arg("map").noconvert(), nb::arg("rows"), nb::arg("columns"), nb::arg("lag"),
          nb::arg("count"));
    m.def("pay", &pay, nb::arg("counts").noconvert(), nb::arg("budget"));
    m.def("count_into_bins", &count_into_bins, nb::arg("values").noconvert(), nb::arg("width"),
          nb::arg("counts").noconvert());
    m.def("kl_thresholds", &kl_thresholds, nb::arg("counts").noconvert(), nb::arg("histograms"),
          nb::arg("levels"));
    m.def("histogram_errors", &histogram_errors, nb::arg("centers").noconvert(),
          nb::arg("counts").noconvert(), nb::arg("scales").noconvert(),
          nb::arg("zero_points").noconvert(), nb::arg("low"), nb::arg("high"));
    define_kmeans<float>(m);
    define_kmeans<double>(m);
    define_selection<float>(m);
    define_selection<double>(m);
    tersor::bind_kernels(m);
}

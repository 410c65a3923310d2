// A sparse convolution without patches: the padded images lie so that, for each entry of a weight,
// output pixels that follow each other need input pixels that follow each other.
//
// With a stride the image is split into its phases (every second column, ...), each of which is then
// walked with stride 1. A row's right padding is the next row's left padding, and so between images.
#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "linear.hpp"
#include "threads.hpp"

namespace tersor {
namespace {

// One axis of the padded image.
struct Axis {
    std::size_t side, kernel, stride, padding, dilation, out, pitch;

    Axis(const Convolution& c, int axis)
        : side(axis == 0 ? c.height : c.width), kernel(c.kernel[axis]), stride(c.stride[axis]),
          padding(c.padding[axis]), dilation(c.dilation[axis]), out(c.out_side(axis)) {
        const std::size_t reach = (kernel - 1) * dilation;  // how far a patch extends
        if (stride == 1)
            // Beyond the right side a patch reaches at most `padding` pixels: the next row's left padding.
            pitch = std::max(side + padding, out);
        else
            pitch = out + reach / stride;
    }
};

// The padded images of some of the batch: (channels, phases of rows, phases of columns, images, pitch, pitch).
struct Canvas {
    Axis y, x;
    std::size_t images, channels;

    std::size_t image() const { return y.pitch * x.pitch; }
    std::size_t plane() const { return images * image(); }
    std::size_t phases() const { return y.stride * x.stride; }
    // Behind the last pixel a patch and a vector may still read.
    std::size_t size(std::size_t lanes) const {
        return channels * phases() * plane() + (y.kernel * y.dilation + 1) * x.pitch + x.kernel * x.dilation + lanes;
    }
    std::size_t offset(std::size_t channel, std::size_t ky, std::size_t kx) const {
        const std::size_t dy = ky * y.dilation, dx = kx * x.dilation;
        const std::size_t phase = dy % y.stride * x.stride + dx % x.stride;
        return (channel * phases() + phase) * plane() + dy / y.stride * x.pitch + dx / x.stride;
    }
    // Pixels from the first that is asked for to the last.
    std::size_t positions() const { return (images - 1) * image() + (y.out - 1) * x.pitch + x.out; }
};

void paint_row(const Axis& a, const float* in, std::size_t phase, float* to) {
    if (a.stride == 1) {
        std::fill(to, to + a.padding, 0.0f);
        const std::size_t n = std::min(a.side, a.pitch - a.padding);
        std::memcpy(to + a.padding, in, n * sizeof(float));
        std::fill(to + a.padding + n, to + a.pitch, 0.0f);
        return;
    }
    for (std::size_t i = 0; i < a.pitch; ++i) {
        const std::size_t at = i * a.stride + phase;  // in the padded row
        to[i] = at >= a.padding && at - a.padding < a.side ? in[at - a.padding] : 0.0f;
    }
}

void paint(const Canvas& c, const float* images, std::size_t channel, float* canvas) {
    const std::size_t rows = c.y.side, columns = c.x.side;
    for (std::size_t py = 0; py < c.y.stride; ++py)
        for (std::size_t px = 0; px < c.x.stride; ++px)
            for (std::size_t n = 0; n < c.images; ++n) {
                const float* in = images + (n * c.channels + channel) * rows * columns;
                float* to = canvas + (channel * c.phases() + py * c.x.stride + px) * c.plane() + n * c.image();
                for (std::size_t i = 0; i < c.y.pitch; ++i, to += c.x.pitch) {
                    const std::size_t at = i * c.y.stride + py;
                    if (at >= c.y.padding && at - c.y.padding < rows)
                        paint_row(c.x, in + (at - c.y.padding) * columns, px, to);
                    else
                        std::fill(to, to + c.x.pitch, 0.0f);
                }
            }
}

// Neighbouring positions of one pass.
struct Stretch {
    std::size_t first;
    int vectors;
};

std::vector<Stretch> stretches(std::size_t positions, int width) {
    std::vector<Stretch> all;
    for (std::size_t first = 0; first < positions;) {
        const std::size_t left = positions - first;
        int vectors = most_vectors;
        // The last one goes to the next power of two; before, whole ones of the largest that fits.
        while (vectors > 1 && static_cast<std::size_t>(vectors * width) > left &&
               static_cast<std::size_t>(vectors / 2 * width) * 3 / 2 >= left)
            vectors /= 2;
        while (vectors > 1 && static_cast<std::size_t>(vectors / 2 * width) >= left) vectors /= 2;
        all.push_back({first, vectors});
        first += static_cast<std::size_t>(vectors * width);
    }
    return all;
}

// Pixels of a stretch that are real ones: where they stand in it and in a channel of the output.
struct Segment {
    std::size_t from, to, length;
};

std::size_t segments_of(const Canvas& c, std::size_t first, std::size_t lanes, std::size_t out_image, Segment* out) {
    std::size_t count = 0;
    const std::size_t end = std::min(first + lanes, c.positions());
    for (std::size_t q = first; q < end;) {
        const std::size_t n = q / c.image(), in = q % c.image(), row = in / c.x.pitch, column = in % c.x.pitch;
        const std::size_t row_end = q + (c.x.pitch - column);
        if (row < c.y.out && column < c.x.out) {
            const std::size_t length = std::min(end - q, c.x.out - column);
            out[count++] = {q - first, n * out_image + row * c.x.out + column, length};
        }
        q = row_end;
    }
    return count;
}

void some_images(const SparseMatrix& m, const Canvas& c, const float* x, float* out, const Finish& f, int threads) {
    const Kernels& k = kernels();
    const std::size_t out_plane = c.y.out * c.x.out;
    const auto parts = stretches(c.positions(), k.width);
    const std::size_t most_lanes = static_cast<std::size_t>(most_vectors * k.width);

    float* canvas = scratch(1, c.size(most_lanes) + m.columns);
    auto* offsets = reinterpret_cast<std::int32_t*>(canvas + c.size(most_lanes));
    const std::size_t painted = c.channels * c.phases() * c.plane();
    std::fill(canvas + painted, canvas + c.size(most_lanes), 0.0f);
    parallel(c.channels, threads, [&](std::size_t channel) {
        paint(c, x, channel, canvas);
        std::int32_t* to = offsets + channel * c.y.kernel * c.x.kernel;
        for (std::size_t ky = 0; ky < c.y.kernel; ++ky)
            for (std::size_t kx = 0; kx < c.x.kernel; ++kx) *to++ = static_cast<std::int32_t>(c.offset(channel, ky, kx));
    });
    parallel(parts.size() * m.blocks(), threads, [&](std::size_t item) {
        const Stretch s = parts[item / m.blocks()];
        const std::size_t block = item % m.blocks(), first = block * m.row_block, rows = m.block_rows(block);
        const std::size_t lanes = static_cast<std::size_t>(s.vectors * k.width);
        float* sums = scratch(2, m.row_block * most_lanes);
        k.multiply(m, block, canvas + s.first, offsets, s.vectors, sums);
        Segment segments[512];
        const std::size_t count = segments_of(c, s.first, lanes, m.rows * out_plane, segments);
        for (std::size_t r = 0; r < rows; ++r) {
            float* row = sums + r * lanes;
            k.finish(row, lanes, f.scale == nullptr ? 1.0f : f.scale[first + r],
                     f.bias == nullptr ? 0.0f : f.bias[first + r], f.activation);
            float* to = out + (first + r) * out_plane;
            for (std::size_t i = 0; i < count; ++i)
                std::memcpy(to + segments[i].to, row + segments[i].from, segments[i].length * sizeof(float));
        }
    });
}

}  // namespace

void sparse_convolution(const SparseMatrix& m, const Convolution& shape, const float* x, float* out, const Finish& f, int threads) {
    Canvas c{Axis(shape, 0), Axis(shape, 1), 1, shape.channels};
    // Offsets are 32-bit, and a canvas that stays in the second cache is faster: 1 MiB at a time.
    constexpr std::size_t most = std::size_t{1} << 18;
    const std::size_t each = c.size(0);
    if (each > INT32_MAX) throw std::invalid_argument("a padded image of " + std::to_string(each) + " values, expected below 2^31");
    const std::size_t at_once = std::min(shape.images, std::max<std::size_t>(1, most / each));
    const std::size_t work = m.entries * c.y.out * c.x.out * at_once;
    if (work < least_for_threads) threads = 1;
    for (std::size_t n = 0; n < shape.images; n += at_once) {
        c.images = std::min(at_once, shape.images - n);
        some_images(m, c, x + n * shape.channels * shape.height * shape.width, out + n * m.rows * c.y.out * c.x.out, f, threads);
    }
}

}  // namespace tersor

// A sparse convolution without patches: the padded images lie so that, for each entry of a weight,
// output pixels that follow each other need input pixels that follow each other.
//
// With a stride the image is split into its phases (every second column, ...), each of which is then
// walked with stride 1. A row's right padding is the next row's left padding, and so between images.
#include <algorithm>
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

// The padded images one below the other, cut into strips of rows; a strip is painted by the thread that
// works on it. In memory: (channels, phases of rows, phases of columns, rows of the strip and those that
// patches reach below it, pitch).
struct Canvas {
    Axis y, x;
    std::size_t images, channels, strip;  // strip: rows whose outputs are made from one painting

    std::size_t rows() const { return images * y.pitch; }
    std::size_t phases() const { return y.stride * x.stride; }
    std::size_t painted_rows() const { return strip + (y.kernel - 1) * y.dilation / y.stride + 1; }
    std::size_t plane() const { return painted_rows() * x.pitch; }
    std::size_t size(std::size_t lanes) const { return channels * phases() * plane() + lanes; }
    std::size_t offset(std::size_t channel, std::size_t ky, std::size_t kx) const {
        const std::size_t dy = ky * y.dilation, dx = kx * x.dilation;
        const std::size_t phase = dy % y.stride * x.stride + dx % x.stride;
        return (channel * phases() + phase) * plane() + dy / y.stride * x.pitch + dx / x.stride;
    }
    std::size_t strips() const { return (rows() + strip - 1) / strip; }
    // Pixels of a strip from its first to the last that is asked for.
    std::size_t positions(std::size_t first_row) const {
        std::size_t count = std::min(strip, rows() - first_row);
        while (count > 0 && (first_row + count - 1) % y.pitch >= y.out) --count;  // padding alone
        return count == 0 ? 0 : (count - 1) * x.pitch + x.out;
    }
};

void paint_row(const Kernels& k, const Axis& a, const float* in, std::size_t phase, float* to) {
    if (a.stride == 1) {
        for (std::size_t i = 0; i < a.padding; ++i) to[i] = 0;
        k.copy(in, a.side, to + a.padding);
        for (std::size_t i = a.padding + a.side; i < a.pitch; ++i) to[i] = 0;
        return;
    }
    for (std::size_t i = 0; i < a.pitch; ++i) {
        const std::size_t at = i * a.stride + phase;  // in the padded row
        to[i] = at >= a.padding && at - a.padding < a.side ? in[at - a.padding] : 0.0f;
    }
}

// The rows of the canvas from `first_row` on.
void paint(const Kernels& k, const Canvas& c, const float* images, std::size_t first_row, float* canvas) {
    const std::size_t plane = c.y.side * c.x.side;
    for (std::size_t channel = 0; channel < c.channels; ++channel)
        for (std::size_t py = 0; py < c.y.stride; ++py)
            for (std::size_t px = 0; px < c.x.stride; ++px)
                for (std::size_t i = 0; i < c.painted_rows(); ++i, canvas += c.x.pitch) {
                    const std::size_t image = (first_row + i) / c.y.pitch;
                    const std::size_t at = (first_row + i) % c.y.pitch * c.y.stride + py;
                    if (image < c.images && at >= c.y.padding && at - c.y.padding < c.y.side)
                        paint_row(k, c.x, images + (image * c.channels + channel) * plane + (at - c.y.padding) * c.x.side, px, canvas);
                    else
                        std::fill(canvas, canvas + c.x.pitch, 0.0f);
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

// `row` is the first row of the strip, `first` and `end` are positions in it.
std::size_t segments_of(const Canvas& c, std::size_t row, std::size_t first, std::size_t end, std::size_t out_image, Segment* out) {
    std::size_t count = 0;
    for (std::size_t q = first; q < end;) {
        const std::size_t at = row + q / c.x.pitch, column = q % c.x.pitch;
        const std::size_t image = at / c.y.pitch, line = at % c.y.pitch;
        if (line < c.y.out && column < c.x.out)
            out[count++] = {q - first, image * out_image + line * c.x.out + column, std::min(end - q, c.x.out - column)};
        q += c.x.pitch - column;
    }
    return count;
}

// How the work is shared: strips of so many rows, and the matrix's blocks in so many groups.
struct Shares {
    std::size_t strip, groups;
};

// The cheapest by a model: what a lane of an entry costs is 1, and painting a pixel about 4.
Shares shares(Canvas c, const SparseMatrix& m, int width, std::size_t threads) {
    constexpr std::size_t most = std::size_t{1} << 17;  // floats of a canvas: half of a second cache
    Shares best{1, 1};
    double least = 0;
    const std::size_t most_groups = std::min<std::size_t>(threads, m.blocks());
    for (c.strip = 1; c.strip <= std::min<std::size_t>(c.rows(), 128); ++c.strip) {
        if (c.strip > 1 && c.size(0) > most) break;
        std::size_t lanes = 0;
        for (const Stretch& s : stretches(c.positions(0), width)) lanes += static_cast<std::size_t>(s.vectors * width);
        for (std::size_t groups = 1; groups <= most_groups; ++groups) {
            const double turns = static_cast<double>((c.strips() * groups + threads - 1) / threads);
            const double work = static_cast<double>(lanes * m.entries) / static_cast<double>(groups);
            const double cost = turns * (work + 4.0 * static_cast<double>(c.size(0)));
            if (least == 0 || cost < least) {
                least = cost;
                best = {c.strip, groups};
            }
        }
    }
    return best;
}

}  // namespace

void sparse_convolution(const SparseMatrix& m, const Convolution& shape, const float* x, float* out, const Finish& f, int threads) {
    const Kernels& k = kernels();
    Canvas c{Axis(shape, 0), Axis(shape, 1), shape.images, shape.channels, 1};
    const std::size_t out_plane = c.y.out * c.x.out;
    if (m.entries * out_plane * shape.images < least_for_threads) threads = 1;
    const Shares share = shares(c, m, k.width, static_cast<std::size_t>(threads));
    c.strip = share.strip;
    const std::size_t most_lanes = static_cast<std::size_t>(most_vectors * k.width);
    if (c.size(most_lanes) > INT32_MAX) throw std::invalid_argument("an image of " + std::to_string(shape.channels) + " x " + std::to_string(shape.width) + " is too wide");

    auto* offsets = reinterpret_cast<std::int32_t*>(scratch(3, m.columns));
    std::int32_t* to = offsets;
    for (std::size_t channel = 0; channel < c.channels; ++channel)
        for (std::size_t ky = 0; ky < c.y.kernel; ++ky)
            for (std::size_t kx = 0; kx < c.x.kernel; ++kx) *to++ = static_cast<std::int32_t>(c.offset(channel, ky, kx));

    parallel(c.strips() * share.groups, threads, [&](std::size_t item) {
        const std::size_t row = item / share.groups * c.strip, group = item % share.groups;
        float* canvas = scratch(1, c.size(most_lanes));
        float* sums = scratch(2, m.row_block * most_lanes);
        std::fill(canvas + c.size(0), canvas + c.size(most_lanes), 0.0f);
        paint(k, c, x, row, canvas);
        const std::size_t positions = c.positions(row);
        for (const Stretch& s : stretches(positions, k.width)) {
            const std::size_t lanes = static_cast<std::size_t>(s.vectors * k.width);
            Segment segments[512];
            const std::size_t count = segments_of(c, row, s.first, std::min(s.first + lanes, positions), m.rows * out_plane, segments);
            for (std::size_t block = group * m.blocks() / share.groups; block < (group + 1) * m.blocks() / share.groups; ++block) {
                k.multiply(m, block, canvas + s.first, offsets, s.vectors, sums);
                for (std::size_t r = 0; r < m.block_rows(block); ++r) {
                    const std::size_t channel = block * m.row_block + r;
                    const float* sum = sums + r * lanes;
                    const float scale = f.scale == nullptr ? 1.0f : f.scale[channel];
                    const float bias = f.bias == nullptr ? 0.0f : f.bias[channel];
                    float* pixels = out + channel * out_plane;
                    for (std::size_t i = 0; i < count; ++i)
                        k.finish(sum + segments[i].from, segments[i].length, scale, bias, f.activation, pixels + segments[i].to);
                }
            }
        }
    });
}

}  // namespace tersor

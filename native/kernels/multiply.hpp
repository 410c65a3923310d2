// Many lanes: each entry is broadcast over neighbouring samples or pixels.
// Included by loops.hpp, once for each instruction set.

template <int vectors, int code_bits, bool table>
static void multiply_block(const SparseMatrix& m, std::uint64_t block, const float* x, const std::int32_t* offsets, float* sums) {
    // With offsets as many for any number of vectors, so that the sum is the same however pixels are
    // taken together: two where there are 32 registers.
    constexpr int chains = table ? (width >= 16 ? 2 : 1) : vectors >= 4 ? 1 : 4 / vectors;
    constexpr std::uint64_t lanes = vectors * width;
    const std::uint64_t rows = m.block_rows(block), tiles = m.tiles();
    const std::uint16_t* counts = m.counts + block * tiles * m.row_block;
    std::uint64_t next = m.starts[block];
    alignas(64) float value[bunch];
    alignas(64) std::int32_t place[bunch];
    for (std::uint64_t t = 0; t < tiles; ++t, counts += m.row_block) {
        const auto tile = static_cast<std::int32_t>(t * m.tile);
        for (std::uint64_t r = 0; r < rows; ++r) {
            std::uint64_t left = counts[r];
            if (left == 0 && t > 0) continue;
            Lanes sum[chains][vectors];
            for (int v = 0; v < vectors; ++v) sum[0][v] = t == 0 ? Lanes{} : load(sums + r * lanes + v * width);
            for (int c = 1; c < chains; ++c)
                for (int v = 0; v < vectors; ++v) sum[c][v] = Lanes{};
            while (left > 0) {
                places_of<code_bits, table>(m, next, tile, static_cast<std::int32_t>(lanes), place);
                values_of<code_bits>(m, next, value);
                const int n = left < bunch ? static_cast<int>(left) : bunch;
                int i = 0;
                for (; i + chains <= n; i += chains)
                    for (int c = 0; c < chains; ++c) {
                        const Lanes w = all(value[i + c]);
                        const float* at = x + (table ? offsets[place[i + c]] : place[i + c]);
                        for (int v = 0; v < vectors; ++v) sum[c][v] += w * load(at + v * width);
                    }
                for (int c = 0; i < n; ++i, ++c) {
                    const float* at = x + (table ? offsets[place[i]] : place[i]);
                    for (int v = 0; v < vectors; ++v) sum[c][v] += all(value[i]) * load(at + v * width);
                }
                next += static_cast<std::uint64_t>(n);
                left -= static_cast<std::uint64_t>(n);
            }
            for (int half = chains / 2; half > 0; half /= 2)
                for (int c = 0; c < half; ++c)
                    for (int v = 0; v < vectors; ++v) sum[c][v] += sum[c + half][v];
            for (int v = 0; v < vectors; ++v) store(sums + r * lanes + v * width, sum[0][v]);
        }
    }
}

template <int vectors>
static void multiply_some(const SparseMatrix& m, std::uint64_t block, const float* x, const std::int32_t* offsets, float* sums) {
    if (offsets == nullptr) {
        if (m.code_bits == 0) return multiply_block<vectors, 0, false>(m, block, x, offsets, sums);
        if (m.code_bits == 4) return multiply_block<vectors, 4, false>(m, block, x, offsets, sums);
        return multiply_block<vectors, any_bits, false>(m, block, x, offsets, sums);
    }
    if (m.code_bits == 0) return multiply_block<vectors, 0, true>(m, block, x, offsets, sums);
    if (m.code_bits == 4) return multiply_block<vectors, 4, true>(m, block, x, offsets, sums);
    return multiply_block<vectors, any_bits, true>(m, block, x, offsets, sums);
}

static void multiply(const SparseMatrix& m, std::uint64_t block, const float* x, const std::int32_t* offsets, int vectors, float* sums) {
    switch (vectors) {
        case 1: return multiply_some<1>(m, block, x, offsets, sums);
        case 2: return multiply_some<2>(m, block, x, offsets, sums);
        case 4: return multiply_some<4>(m, block, x, offsets, sums);
        default: return multiply_some<8>(m, block, x, offsets, sums);
    }
}

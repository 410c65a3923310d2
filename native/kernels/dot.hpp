// One sample: dot products of the rows of a sparse matrix.
// Included by loops.hpp, once for each instruction set.

// The 16 chains of a row, added as isa.hpp says.
static inline float folded(const float* chain) {
    float eight[8], four[4];
    for (int i = 0; i < 8; ++i) eight[i] = chain[i] + chain[i + 8];
    for (int i = 0; i < 4; ++i) four[i] = eight[i] + eight[i + 4];
    return (four[0] + four[2]) + (four[1] + four[3]);
}

#if defined(__AVX512F__) || defined(__AVX2__)
// Four scalar loads are faster than a gather of four where they were measured (Zen 4: 0.22 against
// 0.37 ns an element); the words are taken out of one 64-bit load.
template <int code_bits>
static inline __m128 four_taken(const std::uint16_t* words, const float* x) {
    std::uint64_t w;
    __builtin_memcpy(&w, words, 8);
    constexpr std::uint64_t mask = (1u << (16 - code_bits)) - 1;
    return _mm_setr_ps(x[w >> code_bits & mask], x[w >> (16 + code_bits) & mask], x[w >> (32 + code_bits) & mask], x[w >> (48 + code_bits)]);
}

template <int code_bits>
static inline __m256 eight_taken(const std::uint16_t* words, const float* x) {
    return _mm256_set_m128(four_taken<code_bits>(words + 4, x), four_taken<code_bits>(words, x));
}
#endif

// One run of entries: chain[i % 16] += value * x. Whole bunches as vectors; masking the rest into one
// more was no faster (Zen 4, 65 entries a run: 0.36 against 0.34 ns an entry).
template <int code_bits>
static inline void dot_run(const SparseMatrix& m, std::uint64_t first, std::uint64_t count, const float* x, float* chain) {
    std::uint64_t i = 0;
    const std::uint16_t* words = m.words + first;
#if defined(__AVX512F__)
    __m512 sum = _mm512_loadu_ps(chain);
    for (; i + bunch <= count; i += bunch) {
        const __m256 low = eight_taken<code_bits>(words + i, x), high = eight_taken<code_bits>(words + i + 8, x);
        const __m512 at = _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
        __m512 value;
        if (code_bits == 0)
            value = _mm512_loadu_ps(m.values + first + i);
        else {
            const __m512i w = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(words + i)));
            value = looked_up(m.book, w, code_bits);
        }
        sum = _mm512_fmadd_ps(value, at, sum);
    }
    _mm512_storeu_ps(chain, sum);
#elif defined(__AVX2__)
    __m256 low = _mm256_loadu_ps(chain), high = _mm256_loadu_ps(chain + 8);
    for (; i + bunch <= count; i += bunch) {
        alignas(32) float value[bunch];
        values_of<(code_bits > 4 ? any_bits : code_bits)>(m, first + i, value);
        low = _mm256_fmadd_ps(_mm256_loadu_ps(value), eight_taken<code_bits>(words + i, x), low);
        high = _mm256_fmadd_ps(_mm256_loadu_ps(value + 8), eight_taken<code_bits>(words + i + 8, x), high);
    }
    _mm256_storeu_ps(chain, low);
    _mm256_storeu_ps(chain + 8, high);
#endif
    for (; i < count; ++i) {
        const std::uint16_t w = words[i];
        const float value = code_bits == 0 ? m.values[first + i] : m.book[w & ((1u << code_bits) - 1)];
        chain[i % bunch] = chain[i % bunch] + value * x[w >> code_bits];
    }
}

template <int code_bits>
static void dot_block(const SparseMatrix& m, std::uint64_t block, const float* x, float* out) {
    const std::uint64_t rows = m.block_rows(block), tiles = m.tiles();
    const std::uint16_t* counts = m.counts + block * tiles * m.row_block;
    std::uint64_t next = m.starts[block];
    float* chains = scratch(0, m.row_block * bunch);
    for (std::uint64_t i = 0; i < rows * bunch; ++i) chains[i] = 0;
    for (std::uint64_t t = 0; t < tiles; ++t, counts += m.row_block)
        for (std::uint64_t r = 0; r < rows; ++r) {
            dot_run<code_bits>(m, next, counts[r], x + t * m.tile, chains + r * bunch);
            next += counts[r];
        }
    for (std::uint64_t r = 0; r < rows; ++r) out[r] = folded(chains + r * bunch);
}

static void dot(const SparseMatrix& m, std::uint64_t block, const float* x, float* out) {
    switch (m.code_bits) {
        case 0: return dot_block<0>(m, block, x, out);
        case 4: return dot_block<4>(m, block, x, out);
        case 5: return dot_block<5>(m, block, x, out);
        case 6: return dot_block<6>(m, block, x, out);
        case 7: return dot_block<7>(m, block, x, out);
        default: return dot_block<8>(m, block, x, out);
    }
}

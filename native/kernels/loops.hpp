// The inner loops. Included once for each instruction set, after `width` and `isa_name` are defined
// in that set's namespace; see isa.hpp for what each does and in which order it adds.

#include "lanes.hpp"

// ---- columns and values of entries

constexpr int bunch = 16;     // entries that are unpacked at a time
constexpr int any_bits = -1;  // code_bits of a template: 5 to 8, looked up at run time

#if defined(__AVX512F__)
// The centroids of 16 words by the codes in their low bits.
static inline __m512 looked_up(const float* book, __m512i words, int bits) {
    if (bits == 4) return _mm512_permutexvar_ps(words, _mm512_loadu_ps(book));
    if (bits == 5) return _mm512_permutex2var_ps(_mm512_loadu_ps(book), words, _mm512_loadu_ps(book + 16));
    return _mm512_i32gather_ps(_mm512_and_si512(words, _mm512_set1_epi32((1 << bits) - 1)), book, 4);
}
#endif

// The values of entries first to first + bunch: what lies past the last entry means nothing.
template <int code_bits>
static inline void values_of(const SparseMatrix& m, std::uint64_t first, float* out) {
    const std::uint16_t* words = m.words + first;
    if (code_bits == 0) {
        __builtin_memcpy(out, m.values + first, bunch * sizeof(float));
        return;
    }
#if defined(__AVX512F__)
    const int bits = code_bits == any_bits ? static_cast<int>(m.code_bits) : code_bits;
    const __m512i w = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(words)));
    _mm512_store_ps(out, looked_up(m.book, w, bits));
    return;
#elif defined(__AVX2__)
    if (code_bits == 4) {
        const __m256 low = _mm256_loadu_ps(m.book), high = _mm256_loadu_ps(m.book + 8);
        for (int i = 0; i < bunch; i += 8) {
            const __m256i w = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(words + i)));
            const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(w, 28));
            _mm256_store_ps(out + i, _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, w), _mm256_permutevar8x32_ps(high, w), upper));
        }
        return;
    }
#endif
    const unsigned mask = (1u << m.code_bits) - 1;
    for (int i = 0; i < bunch; ++i) out[i] = m.book[words[i] & mask];
}

// The columns of entries first to first + bunch, or, without a table of offsets, where x begins for them.
template <int code_bits, bool table>
static inline void places_of(const SparseMatrix& m, std::uint64_t first, std::int32_t tile, std::int32_t stride, std::int32_t* out) {
    const std::uint16_t* words = m.words + first;
    const int shift = code_bits == any_bits ? static_cast<int>(m.code_bits) : code_bits;
#if defined(__AVX512F__)
    __m512i column = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(words)));
    column = _mm512_add_epi32(_mm512_srl_epi32(column, _mm_cvtsi32_si128(shift)), _mm512_set1_epi32(tile));
    _mm512_store_si512(out, table ? column : _mm512_mullo_epi32(column, _mm512_set1_epi32(stride)));
#elif defined(__AVX2__)
    for (int i = 0; i < bunch; i += 8) {
        __m256i column = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(words + i)));
        column = _mm256_add_epi32(_mm256_srl_epi32(column, _mm_cvtsi32_si128(shift)), _mm256_set1_epi32(tile));
        _mm256_store_si256(reinterpret_cast<__m256i*>(out + i), table ? column : _mm256_mullo_epi32(column, _mm256_set1_epi32(stride)));
    }
#else
    for (int i = 0; i < bunch; ++i) out[i] = (tile + (words[i] >> shift)) * (table ? 1 : stride);
#endif
}

// ---- one vector: dot products of rows

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

// ---- many lanes: each entry is broadcast over neighbouring samples or pixels

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

// ---- what follows a sum

template <class Each>
static inline void over(float* v, std::size_t n, Each&& each) {
    std::size_t i = 0;
    for (; i + width <= n; i += width) store(v + i, each(load(v + i), i, static_cast<int>(width)));
    if (i == n) return;
    float rest[width] = {};
    for (std::size_t k = i; k < n; ++k) rest[k - i] = v[k];
    store(rest, each(load(rest), i, static_cast<int>(n - i)));
    for (std::size_t k = i; k < n; ++k) v[k] = rest[k - i];
}

// out = each(v): the last vector ends at n, so it may do some elements a second time.
template <class Each>
static inline void from_to(const float* v, std::size_t n, float* out, Each&& each) {
    if (n < width) {
        float some[width] = {};
        for (std::size_t i = 0; i < n; ++i) some[i] = v[i];
        store(some, each(load(some)));
        for (std::size_t i = 0; i < n; ++i) out[i] = some[i];
        return;
    }
    for (std::size_t i = 0; i + width < n; i += width) store(out + i, each(load(v + i)));
    store(out + n - width, each(load(v + n - width)));
}

static void finish(const float* v, std::size_t n, float scale, float bias, Activation activation, float* out) {
    const Lanes by = all(scale), shift = all(bias);
    switch (activation) {
        case Activation::none:
            return from_to(v, n, out, [&](Lanes x) { return x * by + shift; });
        case Activation::relu:
            return from_to(v, n, out, [&](Lanes x) { return activated(x * by + shift, Activation::relu); });
        default:
            return from_to(v, n, out, [&](Lanes x) { return activated(x * by + shift, activation); });
    }
}

static void copy(const float* from, std::size_t n, float* to) {
    from_to(from, n, to, [](Lanes x) { return x; });
}

static inline Lanes part(const float* p, std::size_t i, int n, float none) {
    if (p == nullptr) return all(none);
    if (n == width) return load(p + i);
    float rest[width] = {};
    for (int k = 0; k < n; ++k) rest[k] = p[i + static_cast<std::size_t>(k)];
    return load(rest);
}

static void finish_each(float* v, std::size_t n, const float* scale, const float* bias, Activation activation) {
    if (scale == nullptr && bias == nullptr && activation == Activation::none) return;
    over(v, n, [&](Lanes x, std::size_t i, int k) {
        return activated(x * part(scale, i, k, 1.0f) + part(bias, i, k, 0.0f), activation);
    });
}

static void sigmoid(float* v, std::size_t n) {
    over(v, n, [](Lanes x, std::size_t, int) { return logistic(x); });
}

static void tanh_of(float* v, std::size_t n) {
    over(v, n, [](Lanes x, std::size_t, int) { return hyperbolic_tangent(x); });
}

// out[c * out_stride + r] = in[r * in_stride + c] for four rows and columns.
static inline void transpose_four(const float* in, std::size_t in_stride, float* out, std::size_t out_stride) {
#if defined(__SSE2__)
    __m128 a = _mm_loadu_ps(in), b = _mm_loadu_ps(in + in_stride);
    __m128 c = _mm_loadu_ps(in + 2 * in_stride), d = _mm_loadu_ps(in + 3 * in_stride);
    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(out, a);
    _mm_storeu_ps(out + out_stride, b);
    _mm_storeu_ps(out + 2 * out_stride, c);
    _mm_storeu_ps(out + 3 * out_stride, d);
#else
    for (std::size_t r = 0; r < 4; ++r)
        for (std::size_t c = 0; c < 4; ++c) out[c * out_stride + r] = in[r * in_stride + c];
#endif
}

static void transpose(const float* in, std::size_t rows, std::size_t columns, std::size_t in_stride, float* out, std::size_t out_stride) {
    const std::size_t whole_rows = rows / 4 * 4, whole_columns = columns / 4 * 4;
    // The side with the long stride is the outer one: its lines may all fall into one set of a cache.
    if (in_stride >= out_stride) {
        for (std::size_t r = 0; r < whole_rows; r += 4)
            for (std::size_t c = 0; c < whole_columns; c += 4)
                transpose_four(in + r * in_stride + c, in_stride, out + c * out_stride + r, out_stride);
    } else {
        for (std::size_t c = 0; c < whole_columns; c += 4)
            for (std::size_t r = 0; r < whole_rows; r += 4)
                transpose_four(in + r * in_stride + c, in_stride, out + c * out_stride + r, out_stride);
    }
    for (std::size_t r = 0; r < rows; ++r)
        for (std::size_t c = r < whole_rows ? whole_columns : 0; c < columns; ++c) out[c * out_stride + r] = in[r * in_stride + c];
}

// ---- dense codes

// Sixteen lanes of sums, whatever the width of a vector.
struct Sixteen {
#if defined(__AVX512F__)
    __m512 sum = _mm512_setzero_ps();
#elif defined(__AVX2__)
    __m256 low = _mm256_setzero_ps(), high = _mm256_setzero_ps();
#else
    float sum[16] = {};
#endif
};

static inline float folded(const Sixteen& s) {
    float chain[16];
#if defined(__AVX512F__)
    _mm512_storeu_ps(chain, s.sum);
#elif defined(__AVX2__)
    _mm256_storeu_ps(chain, s.low);
    _mm256_storeu_ps(chain + 8, s.high);
#else
    for (int i = 0; i < 16; ++i) chain[i] = s.sum[i];
#endif
    return folded(chain);
}

// s[k % 2].lane += value of the lane's k-th code * x[16 k + lane], for all codes of a group.
// For affine ones a value is the signed byte, else the centroid.
template <int bits, bool affine>
static inline void add_group(Sixteen* s, const std::uint8_t* group, const float* book, const float* x) {
    constexpr int codes = 32 / bits;
#if defined(__AVX512F__)
    const __m512i words = _mm512_loadu_si512(group);
    const __m512 centroids = _mm512_loadu_ps(affine ? x : book);
#pragma GCC unroll 32
    for (int k = 0; k < codes; ++k) {
        const __m512i shifted = _mm512_srli_epi32(words, static_cast<unsigned>(k * bits));
        __m512 value;
        if (affine)
            value = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(words, static_cast<unsigned>(24 - 8 * k)), 24));
        else if (bits == 8)
            value = _mm512_i32gather_ps(_mm512_and_si512(shifted, _mm512_set1_epi32(255)), book, 4);
        else
            value = _mm512_permutexvar_ps(shifted, centroids);
        s[k % 2].sum = _mm512_fmadd_ps(value, _mm512_loadu_ps(x + 16 * k), s[k % 2].sum);
    }
#elif defined(__AVX2__)
    const __m256 lower = _mm256_loadu_ps(affine ? x : book), upper = _mm256_loadu_ps(affine ? x : book + 8);
    for (int half = 0; half < 2; ++half) {
        const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(group + 32 * half));
#pragma GCC unroll 32
        for (int k = 0; k < codes; ++k) {
            const __m256i shifted = _mm256_srli_epi32(words, k * bits);
            __m256 value;
            if (affine)
                value = _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(words, 24 - 8 * k), 24));
            else if (bits == 8)
                value = _mm256_i32gather_ps(book, _mm256_and_si256(shifted, _mm256_set1_epi32(255)), 4);
            else
                value = _mm256_blendv_ps(_mm256_permutevar8x32_ps(lower, shifted), _mm256_permutevar8x32_ps(upper, shifted),
                                         _mm256_castsi256_ps(_mm256_slli_epi32(shifted, 28)));
            __m256& sum = half == 0 ? s[k % 2].low : s[k % 2].high;
            sum = _mm256_fmadd_ps(value, _mm256_loadu_ps(x + 16 * k + 8 * half), sum);
        }
    }
#else
    for (int k = 0; k < codes; ++k)
        for (int l = 0; l < 16; ++l) {
            std::uint32_t word;
            __builtin_memcpy(&word, group + 4 * l, 4);
            word >>= k * bits;
            const float value = affine ? static_cast<float>(static_cast<std::int8_t>(word & 255)) : book[word & ((1u << bits) - 1)];
            s[k % 2].sum[l] = s[k % 2].sum[l] + value * x[16 * k + l];
        }
#endif
}

// Two rows at a time share the loads of x; two sums a row hide the latency of an addition.
template <int bits, bool affine>
static void codes_rows(const CodeMatrix& m, std::uint64_t first, std::uint64_t count, const float* x, float* out) {
    const std::uint64_t groups = m.groups();
    for (std::uint64_t r = 0; r < count; r += 2) {
        const bool pair = r + 1 < count;
        const std::uint8_t* a = m.codes + (first + r) * groups * 64;
        const std::uint8_t* b = pair ? a + groups * 64 : a;
        Sixteen one[2], two[2];
        for (std::uint64_t g = 0; g < groups; ++g) {
            add_group<bits, affine>(one, a + g * 64, m.book, x + g * (512 / bits));
            add_group<bits, affine>(two, b + g * 64, m.book, x + g * (512 / bits));
        }
        const float sums[2] = {folded(one[0]) + folded(one[1]), folded(two[0]) + folded(two[1])};
        for (std::uint64_t i = 0; i < (pair ? 2u : 1u); ++i) out[r + i] = affine ? sums[i] * m.scales[first + r + i] : sums[i];
    }
}

#if defined(__AVX512VNNI__)
static void integers_dot(const CodeMatrix& m, std::uint64_t first, std::uint64_t count, const std::uint8_t* x, double unit, float* out) {
    const std::uint64_t bytes = m.groups() * 64;
    const __m512i ones = _mm512_set1_epi8(1);
    for (std::uint64_t r = 0; r < count; ++r) {
        const std::uint8_t* row = m.codes + (first + r) * bytes;
        __m512i sums[4] = {}, weights = _mm512_setzero_si512();
        for (std::uint64_t i = 0; i < bytes; i += 64) {
            const __m512i codes = _mm512_loadu_si512(row + i);
            weights = _mm512_dpbusd_epi32(weights, ones, codes);
            for (int plane = 0; plane < 4; ++plane)
                sums[plane] = _mm512_dpbusd_epi32(sums[plane], _mm512_loadu_si512(x + static_cast<std::uint64_t>(plane) * bytes + i), codes);
        }
        // Below 2^63: a plane's sum is below 2^14 * 64 * 255 * 128 < 2^36.
        std::int64_t total = -static_cast<std::int64_t>(_mm512_reduce_add_epi32(weights)) * (std::int64_t{1} << 31);
        for (int plane = 0; plane < 4; ++plane) {
            const __m512i low = _mm512_cvtepi32_epi64(_mm512_castsi512_si256(sums[plane]));
            const __m512i high = _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(sums[plane], 1));
            total += _mm512_reduce_add_epi64(_mm512_add_epi64(low, high)) * (std::int64_t{1} << (8 * plane));
        }
        out[r] = static_cast<float>(static_cast<double>(total) * unit * static_cast<double>(m.scales[first + r]));
    }
}
#else
constexpr decltype(Kernels::integers_dot) integers_dot = nullptr;
#endif

static void codes_dot(const CodeMatrix& m, std::uint64_t first, std::uint64_t count, const float* x, float* out) {
    if (m.affine == 1) return codes_rows<8, true>(m, first, count, x, out);
    switch (m.bits) {
        case 1: return codes_rows<1, false>(m, first, count, x, out);
        case 2: return codes_rows<2, false>(m, first, count, x, out);
        case 4: return codes_rows<4, false>(m, first, count, x, out);
        default: return codes_rows<8, false>(m, first, count, x, out);
    }
}

#include "gates.hpp"

extern const Kernels table = {isa_name, width, dot, multiply, finish, copy, finish_each, transpose, codes_dot, integers_dot, sigmoid, tanh_of, lstm_gates, gru_gates};

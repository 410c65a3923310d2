// One sample: dot products of the rows of a matrix of codes.
// Included by loops.hpp, once for each instruction set.

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

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
template <int bits>
static inline void add_group(Sixteen* s, const std::uint8_t* group, const float* book, const float* x) {
    constexpr int codes = 32 / bits;
#if defined(__AVX512F__)
    const __m512i words = _mm512_loadu_si512(group);
    const __m512 centroids = _mm512_loadu_ps(book);
#pragma GCC unroll 32
    for (int k = 0; k < codes; ++k) {
        const __m512i shifted = _mm512_srli_epi32(words, static_cast<unsigned>(k * bits));
        __m512 value;
        if (bits == 8)
            value = _mm512_i32gather_ps(_mm512_and_si512(shifted, _mm512_set1_epi32(255)), book, 4);
        else
            value = _mm512_permutexvar_ps(shifted, centroids);
        s[k % 2].sum = _mm512_fmadd_ps(value, _mm512_loadu_ps(x + 16 * k), s[k % 2].sum);
    }
#elif defined(__AVX2__)
    const __m256 lower = _mm256_loadu_ps(book), upper = _mm256_loadu_ps(book + 8);
    for (int half = 0; half < 2; ++half) {
        const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(group + 32 * half));
#pragma GCC unroll 32
        for (int k = 0; k < codes; ++k) {
            const __m256i shifted = _mm256_srli_epi32(words, k * bits);
            __m256 value;
            if (bits == 8)
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
            const float value = book[word & ((1u << bits) - 1)];
            s[k % 2].sum[l] = s[k % 2].sum[l] + value * x[16 * k + l];
        }
#endif
}

// Two rows at a time share the loads of x; two sums a row hide the latency of an addition.
template <int bits>
static void codes_rows(const CodeMatrix& m, std::uint64_t first, std::uint64_t count, const float* x, float* out) {
    const std::uint64_t groups = m.groups();
    for (std::uint64_t r = 0; r < count; r += 2) {
        const bool pair = r + 1 < count;
        const std::uint8_t* a = m.codes + (first + r) * groups * 64;
        const std::uint8_t* b = pair ? a + groups * 64 : a;
        const float *book = m.book(first + r), *other = m.book(first + r + (pair ? 1 : 0));
        Sixteen one[2], two[2];
        for (std::uint64_t g = 0; g < groups; ++g) {
            add_group<bits>(one, a + g * 64, book, x + g * (512 / bits));
            add_group<bits>(two, b + g * 64, other, x + g * (512 / bits));
        }
        const float sums[2] = {folded(one[0]) + folded(one[1]), folded(two[0]) + folded(two[1])};
        for (std::uint64_t i = 0; i < (pair ? 2u : 1u); ++i) out[r + i] = sums[i];
    }
}

#if defined(__AVX512F__)
// Four rows and some samples at once: a centroid is looked up once for all samples. One sum each.
template <int bits, int samples>
static inline void codes_tile(const CodeMatrix& m, std::uint64_t first, const float* x, std::uint64_t stride, float* out, std::uint64_t out_stride) {
    constexpr int codes = 32 / bits, rows = 4;
    const std::uint64_t groups = m.groups();
    const std::uint8_t* group = m.codes + first * groups * 64;
    __m512 sum[rows][samples], centroids[rows];
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) {
        centroids[r] = _mm512_loadu_ps(m.book(first + static_cast<std::uint64_t>(r)));
#pragma GCC unroll 4
        for (int s = 0; s < samples; ++s) sum[r][s] = _mm512_setzero_ps();
    }
    for (std::uint64_t g = 0; g < groups; ++g, group += 64, x += 16 * codes) {
        __m512i words[rows];
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) {
            words[r] = _mm512_loadu_si512(group + static_cast<std::uint64_t>(r) * groups * 64);
            if (samples <= 2) __builtin_prefetch(group + static_cast<std::uint64_t>(rows + r) * groups * 64);
        }
#pragma GCC unroll 4
        for (int k = 0; k < codes; ++k) {
            __m512 of_x[samples];
#pragma GCC unroll 4
            for (int s = 0; s < samples; ++s) of_x[s] = _mm512_loadu_ps(x + static_cast<std::uint64_t>(s) * stride + 16 * k);
#pragma GCC unroll 4
            for (int r = 0; r < rows; ++r) {
                __m512 value;
                if (bits == 8)
                    value = _mm512_i32gather_ps(_mm512_and_si512(words[r], _mm512_set1_epi32(255)), m.book(first + static_cast<std::uint64_t>(r)), 4);
                else
                    value = _mm512_permutexvar_ps(words[r], centroids[r]);
                words[r] = _mm512_srli_epi32(words[r], bits);
#pragma GCC unroll 4
                for (int s = 0; s < samples; ++s) sum[r][s] = _mm512_fmadd_ps(value, of_x[s], sum[r][s]);
            }
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int s = 0; s < samples; ++s) out[static_cast<std::uint64_t>(s) * out_stride + static_cast<std::uint64_t>(r)] = _mm512_reduce_add_ps(sum[r][s]);
}
#endif

template <int bits>
static void codes_samples(const CodeMatrix& m, std::uint64_t first, std::uint64_t count, const float* x, std::uint64_t stride,
                          std::uint64_t samples, float* out, std::uint64_t out_stride) {
#if defined(__AVX512F__)
    for (; count >= 4; count -= 4, first += 4, out += 4) {
        std::uint64_t s = 0;
        for (; s + 4 <= samples; s += 4) codes_tile<bits, 4>(m, first, x + s * stride, stride, out + s * out_stride, out_stride);
        for (; s + 2 <= samples; s += 2) codes_tile<bits, 2>(m, first, x + s * stride, stride, out + s * out_stride, out_stride);
        for (; s < samples; ++s) codes_tile<bits, 1>(m, first, x + s * stride, stride, out + s * out_stride, out_stride);
    }
#endif
    for (std::uint64_t s = 0; s < samples; ++s) codes_rows<bits>(m, first, count, x + s * stride, out + s * out_stride);
}

static void codes_dot(const CodeMatrix& m, std::uint64_t first, std::uint64_t count, const float* x, std::uint64_t stride,
                      std::uint64_t samples, float* out, std::uint64_t out_stride) {
    switch (m.bits) {
        case 1: return codes_samples<1>(m, first, count, x, stride, samples, out, out_stride);
        case 2: return codes_samples<2>(m, first, count, x, stride, samples, out, out_stride);
        case 4: return codes_samples<4>(m, first, count, x, stride, samples, out, out_stride);
        default: return codes_samples<8>(m, first, count, x, stride, samples, out, out_stride);
    }
}

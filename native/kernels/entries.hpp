// What the 16-bit words of a sparse matrix stand for, 16 of them at a time.
// Included by loops.hpp, once for each instruction set.

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

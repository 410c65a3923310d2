// Products of a block of an integer matrix: exact bytes where there are instructions, else floats.
// Included by loops.hpp, once for each instruction set.

// Floats, `samples` at a time: the sum of integer * x over 64 columns of a group or fewer, one chain a
// row, in the order of the columns; then out += scale * sum, one after another. `x` has padded samples,
// `stride` floats apart.
template <int bits, int samples>
static void integers_floats_of(const IntegerMatrix& m, std::uint64_t block, const float* x, std::uint64_t stride, float* out) {
    constexpr int codes = 8 / bits, parts = 16 / width;
    constexpr std::uint64_t step = 64 / (4 * codes);
    const std::uint64_t groups = m.groups();
    const std::uint8_t* piece = m.codes + block * m.pieces() * 64;
    for (int i = 0; i < samples * 16; ++i) out[i] = 0;
    for (std::uint64_t g = 0; g < groups; ++g) {
        const std::uint64_t table = (block * groups + g) * 16;
        const float* at = x + m.group_begin(g);
        for (std::uint64_t left = m.group_pieces(g), count; left > 0; left -= count, piece += count * 64, at += count * 4 * codes) {
            count = left < step ? left : step;
            for (int part = 0; part < parts; ++part) {
                Ints zero;
                for (int l = 0; l < width; ++l) zero[l] = m.zeros[table + static_cast<std::uint64_t>(part * width + l)];
                Lanes sum[samples];
                for (int s = 0; s < samples; ++s) sum[s] = Lanes{};
                for (std::uint64_t i = 0; i < count; ++i) {
                    Ints words;
                    __builtin_memcpy(&words, piece + i * 64 + part * width * 4, sizeof words);
                    const float* of_piece = at + i * 4 * codes;
#pragma GCC unroll 16
                    for (int k = 0; k < 4 * codes; ++k) {
                        const Lanes value = converted(((words >> (8 * (k % 4) + k / 4 * bits)) & ((1 << bits) - 1)) - zero);
                        for (int s = 0; s < samples; ++s)
                            sum[s] += value * all(of_piece[static_cast<std::uint64_t>(s) * stride + static_cast<std::uint64_t>(k)]);
                    }
                }
                const Lanes scale = load(m.scales + table + part * width);
                for (int s = 0; s < samples; ++s) store(out + s * 16 + part * width, load(out + s * 16 + part * width) + scale * sum[s]);
            }
        }
    }
}

template <int bits>
static void integers_floats_bits(const IntegerMatrix& m, std::uint64_t block, const float* x, std::uint64_t stride, std::uint64_t samples, float* out) {
    for (; samples >= 4; samples -= 4, x += 4 * stride, out += 64) integers_floats_of<bits, 4>(m, block, x, stride, out);
    for (; samples > 0; --samples, x += stride, out += 16) integers_floats_of<bits, 1>(m, block, x, stride, out);
}

static void integers_floats(const IntegerMatrix& m, std::uint64_t block, const float* x, std::uint64_t stride, std::uint64_t samples, float* out) {
    switch (m.bits) {
        case 2: return integers_floats_bits<2>(m, block, x, stride, samples, out);
        case 4: return integers_floats_bits<4>(m, block, x, stride, samples, out);
        default: return integers_floats_bits<8>(m, block, x, stride, samples, out);
    }
}

#if defined(__AVX512VNNI__)
constexpr int ahead = 2048;  // bytes

template <int n>
struct Number {
    static constexpr int value = n;
};

static int integers_planes(const float* x, std::uint64_t columns, float* most) {
    const auto at = [&](std::uint64_t c) {
        const std::uint64_t left = columns - c;
        return _mm512_abs_ps(_mm512_maskz_loadu_ps(static_cast<__mmask16>(left >= 16 ? 0xffff : (1u << left) - 1), x + c));
    };
    __m512 largest = _mm512_setzero_ps();
    unsigned finite = 0xffff;
    for (std::uint64_t c = 0; c < columns; c += 16) {
        finite &= _mm512_cmp_ps_mask(at(c), _mm512_set1_ps(__builtin_inff()), _CMP_LT_OQ);
        largest = _mm512_max_ps(largest, at(c));
    }
    if (finite != 0xffff) return 0;
    *most = _mm512_reduce_max_ps(largest);
    // A number of 2^-4 of the largest has 18 bits of 3 digits; one of 2^-10 has 20 of 4.
    const __m512 small = _mm512_set1_ps(*most / 16), least = _mm512_set1_ps(*most / 1024);
    std::int64_t balance = 0, last_balance = 0;  // numbers that are large enough, less those that are not
    for (std::uint64_t c = 0; c < columns; c += 16) {
        const __m512 value = at(c);
        const unsigned some = _mm512_cmp_ps_mask(value, _mm512_setzero_ps(), _CMP_NEQ_OQ);
        const int count = __builtin_popcount(some);
        balance += count - 2 * __builtin_popcount(some & _mm512_cmp_ps_mask(value, small, _CMP_LT_OQ));
        last_balance += count - 2 * __builtin_popcount(some & _mm512_cmp_ps_mask(value, least, _CMP_LT_OQ));
    }
    return balance >= 0 ? 3 : last_balance >= 0 ? 4 : 0;
}

// Digits of one sample and their sums over each chunk of each group. `factor` * `second` is what x is
// multiplied with, a power of two: so a number is rounded to an integer once, and the integer's bytes
// as base 256 with digits -128 to 127 are exact. They come as four bytes of digit 0 of four
// neighbouring columns, then of digit 1, and so on.
static void integers_digits(const IntegerMatrix& m, const float* x, float factor, float second, std::int8_t* digits, std::int32_t* sums) {
    const __m512i turn = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    const __m512i offset = _mm512_set1_epi32(static_cast<int>(0x80808080)), ones = _mm512_set1_epi8(1);
    const __m512 by = _mm512_set1_ps(factor), and_by = _mm512_set1_ps(second);
    for (std::uint64_t g = 0; g < m.groups(); ++g) {
        const std::uint64_t columns = m.group_columns(g), padded = m.group_pieces(g) * m.piece_columns();
        for (std::uint64_t first = 0; first < padded; first += digit_chunk, sums += 4) {
            const std::uint64_t last = first + digit_chunk < padded ? first + digit_chunk : padded;
            __m512i sum = _mm512_setzero_si512();
            for (std::uint64_t c = first; c < last; c += 16) {
                const std::uint64_t left = c < columns ? columns - c : 0;
                const __mmask16 some = static_cast<__mmask16>(left >= 16 ? 0xffff : (1u << left) - 1);
                const __m512 value = _mm512_mul_ps(_mm512_mul_ps(_mm512_maskz_loadu_ps(some, x + c), by), and_by);
                const __m512i integer = _mm512_cvtps_epi32(value);
                const __m512i bytes = _mm512_xor_si512(_mm512_add_epi32(integer, offset), offset);
                const __m512i turned = _mm512_shuffle_epi8(bytes, turn);
                _mm512_storeu_si512(digits + 4 * c, turned);  // may write 48 bytes past a group: the next one overwrites them
                sum = _mm512_dpbusd_epi32(sum, ones, turned);
            }
            const __m256i two = _mm256_add_epi32(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64(sum, 1));
            _mm_storeu_si128(reinterpret_cast<__m128i*>(sums), _mm_add_epi32(_mm256_castsi256_si128(two), _mm256_extracti128_si256(two, 1)));
        }
        x += columns;
        digits += 4 * padded;
    }
}

// sum += the products of four neighbouring bytes. The intrinsic makes GCC 12 copy and store each sum.
static inline void add_products(__m512i& sum, __m512i codes, __m512i numbers) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(codes), "v"(numbers));
}

// One chunk: out[sample][row] += scale * (the sum over its columns of (code - zero) * integer).
template <int bits, int planes, int vectors, int samples>
static inline void digits_chunk(const std::uint8_t* const* pieces, std::uint64_t count, const std::int8_t* digits, std::uint64_t stride,
                                const std::int32_t* sums, std::uint64_t sums_stride, const __m512i* zero, const __m512* scale, float* out) {
    constexpr int codes = 8 / bits;
    const __m512i mask = _mm512_set1_epi8((1 << bits) - 1), none = _mm512_setzero_si512();
    __m512i sum[samples][planes], other[samples][planes];
#pragma GCC unroll 4
    for (int s = 0; s < samples; ++s)
#pragma GCC unroll 4
        for (int p = 0; p < planes; ++p) {
            const __m512i of_x = _mm512_set1_epi32(sums[static_cast<std::uint64_t>(s) * sums_stride + static_cast<std::uint64_t>(p)]);
            sum[s][p] = _mm512_sub_epi32(none, _mm512_mullo_epi32(zero[0], of_x));
            if (vectors == 2) other[s][p] = _mm512_sub_epi32(none, _mm512_mullo_epi32(zero[vectors - 1], of_x));
        }
    const std::uint8_t *first = pieces[0], *second = pieces[vectors - 1];
    for (std::uint64_t i = 0; i < count; ++i, digits += 16 * codes, first += 64, second += 64) {
        const __m512i words = _mm512_loadu_si512(first), more = _mm512_loadu_si512(second);
        if (samples <= 2) __builtin_prefetch(first + ahead), __builtin_prefetch(second + ahead);
#pragma GCC unroll 4
        for (int k = 0; k < codes; ++k) {
            const auto shift = static_cast<unsigned>(k * bits);
            const __m512i code = bits == 8 ? words : _mm512_and_si512(_mm512_srli_epi16(words, shift), mask);
            const __m512i next = bits == 8 ? more : _mm512_and_si512(_mm512_srli_epi16(more, shift), mask);
#pragma GCC unroll 4
            for (int s = 0; s < samples; ++s)
#pragma GCC unroll 4
                for (int p = 0; p < planes; ++p) {
                    std::int32_t four;
                    __builtin_memcpy(&four, digits + static_cast<std::uint64_t>(s) * stride + static_cast<std::uint64_t>(16 * k + 4 * p), 4);
                    const __m512i x = _mm512_set1_epi32(four);
                    add_products(sum[s][p], code, x);
                    if (vectors == 2) add_products(other[s][p], next, x);
                }
        }
    }
    const __m512 base = _mm512_set1_ps(256.0f);
#pragma GCC unroll 4
    for (int s = 0; s < samples; ++s) {
        float* to = out + s * vectors * 16;
        __m512 value = _mm512_cvtepi32_ps(sum[s][planes - 1]);
        __m512 beside = _mm512_cvtepi32_ps(other[s][planes - 1]);
#pragma GCC unroll 4
        for (int p = planes - 2; p >= 0; --p) {
            value = _mm512_fmadd_ps(value, base, _mm512_cvtepi32_ps(sum[s][p]));
            if (vectors == 2) beside = _mm512_fmadd_ps(beside, base, _mm512_cvtepi32_ps(other[s][p]));
        }
        _mm512_storeu_ps(to, _mm512_fmadd_ps(value, scale[0], _mm512_loadu_ps(to)));
        if (vectors == 2) _mm512_storeu_ps(to + 16, _mm512_fmadd_ps(beside, scale[vectors - 1], _mm512_loadu_ps(to + 16)));
    }
}

template <int bits, int planes, int vectors>
static void digits_blocks(const IntegerMatrix& m, std::uint64_t block, const std::int8_t* digits, std::uint64_t stride,
                          const std::int32_t* sums, std::uint64_t sums_stride, std::uint64_t samples, float* out) {
    constexpr int most = planes == 3 ? 4 : 3;  // samples at once: 24 sums
    const std::uint64_t groups = m.groups();
    const std::uint8_t* row[vectors];
    for (int v = 0; v < vectors; ++v) row[v] = m.codes + (block + static_cast<std::uint64_t>(v)) * m.pieces() * 64;
    for (std::uint64_t i = 0; i < samples * vectors * 16; ++i) out[i] = 0;
    for (std::uint64_t g = 0; g < groups; ++g) {
        __m512i zero[vectors];
        __m512 scale[vectors];
        for (int v = 0; v < vectors; ++v) {
            const std::uint64_t table = ((block + static_cast<std::uint64_t>(v)) * groups + g) * 16;
            zero[v] = _mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(m.zeros + table)));
            scale[v] = _mm512_loadu_ps(m.scales + table);
        }
        const std::uint64_t pieces = m.group_pieces(g), step = digit_chunk / m.piece_columns();
        for (std::uint64_t first = 0; first < pieces; first += step, sums += 4) {
            const std::uint64_t count = pieces - first < step ? pieces - first : step;
            std::uint64_t s = 0;
            const auto at = [&](auto many) {
                constexpr int n = decltype(many)::value;
                digits_chunk<bits, planes, vectors, n>(row, count, digits + s * stride, stride, sums + s * sums_stride, sums_stride, zero, scale,
                                                       out + s * vectors * 16);
                s += n;
            };
            while (s + most <= samples) at(Number<most>{});
            if (s + 2 <= samples) at(Number<2>{});
            if (s < samples) at(Number<1>{});
            for (int v = 0; v < vectors; ++v) row[v] += count * 64;
            digits += count * m.piece_columns() * 4;
        }
    }
}

template <int bits, int planes>
static void digits_bits(const IntegerMatrix& m, std::uint64_t block, std::uint64_t blocks, const std::int8_t* digits, std::uint64_t stride,
                        const std::int32_t* sums, std::uint64_t sums_stride, std::uint64_t samples, float* out) {
    if (blocks == 2) return digits_blocks<bits, planes, 2>(m, block, digits, stride, sums, sums_stride, samples, out);
    return digits_blocks<bits, planes, 1>(m, block, digits, stride, sums, sums_stride, samples, out);
}

static void integers_multiply(const IntegerMatrix& m, std::uint64_t block, std::uint64_t blocks, int planes, const std::int8_t* digits,
                              std::uint64_t stride, const std::int32_t* sums, std::uint64_t sums_stride, std::uint64_t samples, float* out) {
    if (planes == 3) {
        if (m.bits == 2) return digits_bits<2, 3>(m, block, blocks, digits, stride, sums, sums_stride, samples, out);
        if (m.bits == 4) return digits_bits<4, 3>(m, block, blocks, digits, stride, sums, sums_stride, samples, out);
        return digits_bits<8, 3>(m, block, blocks, digits, stride, sums, sums_stride, samples, out);
    }
    if (m.bits == 2) return digits_bits<2, 4>(m, block, blocks, digits, stride, sums, sums_stride, samples, out);
    if (m.bits == 4) return digits_bits<4, 4>(m, block, blocks, digits, stride, sums, sums_stride, samples, out);
    return digits_bits<8, 4>(m, block, blocks, digits, stride, sums, sums_stride, samples, out);
}
#else
constexpr decltype(Kernels::integers_planes) integers_planes = nullptr;
constexpr decltype(Kernels::integers_digits) integers_digits = nullptr;
constexpr decltype(Kernels::integers_multiply) integers_multiply = nullptr;
#endif

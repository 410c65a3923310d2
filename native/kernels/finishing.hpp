// What follows a sum: scale, bias, activation, and the way to where it is wanted.
// Included by loops.hpp, once for each instruction set.

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

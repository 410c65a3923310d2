// Vectors of floats of one instruction set, and the functions on them that networks need.
//
// Included inside a namespace of its own for each instruction set, so that the linker can never
// take a wide function for a narrow one. Nothing of the standard library is used here for that reason.

#if defined(__GNUC__)
typedef float Lanes __attribute__((vector_size(width * 4)));
typedef float LooseLanes __attribute__((vector_size(width * 4), aligned(4), may_alias));
typedef std::int32_t Ints __attribute__((vector_size(width * 4)));

static inline Lanes load(const float* p) { return *reinterpret_cast<const LooseLanes*>(p); }
static inline void store(float* p, Lanes v) { *reinterpret_cast<LooseLanes*>(p) = v; }
static inline Lanes all(float v) { return v - Lanes{}; }
static inline Lanes pick(Ints where, Lanes yes, Lanes no) { return where ? yes : no; }
static inline Ints bits_of(Lanes v) { return reinterpret_cast<Ints>(v); }
static inline Lanes floats_of(Ints v) { return reinterpret_cast<Lanes>(v); }
static inline Lanes converted(Ints v) { return __builtin_convertvector(v, Lanes); }
static inline Ints truncated(Lanes v) { return __builtin_convertvector(v, Ints); }
#else
#error "the kernels need GCC's vector extensions (GCC or Clang)"
#endif

static inline Lanes least(Lanes a, Lanes b) { return pick(a < b, a, b); }
static inline Lanes most(Lanes a, Lanes b) { return pick(a > b, a, b); }

// exp(x) to about 2 units in the last place: 2^k * p(r) with x = k ln 2 + r, |r| <= ln 2 / 2.
// Out of range it is 0 or infinity; NaN stays NaN. The polynomial is Taylor's with the last term fitted.
static inline Lanes exponential(Lanes x) {
    const Lanes low = all(-87.3f), high = all(88.7f);
    const Lanes inside = most(least(x, high), low);
    const Lanes shift = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const Lanes k = (inside * all(1.44269504f) + shift) - shift;
    const Lanes r = inside - k * all(0.693359375f) - k * all(-2.12194440e-4f);
    Lanes p = all(1.0f / 5040.0f);
    p = p * r + all(1.0f / 720.0f);
    p = p * r + all(1.0f / 120.0f);
    p = p * r + all(1.0f / 24.0f);
    p = p * r + all(1.0f / 6.0f);
    p = p * r + all(0.5f);
    p = p * r + all(1.0f);
    p = p * r + all(1.0f);
    const Lanes scale = floats_of((truncated(k) + 127) << 23);
    Lanes e = pick(x < low, all(0.0f), p * scale);
    e = pick(x > high, all(__builtin_inff()), e);
    return pick(x == x, e, x);
}

static inline Lanes logistic(Lanes x) { return all(1.0f) / (all(1.0f) + exponential(-x)); }

// By expm1's odd series where 1 - 2 / (e^2x + 1) would cancel.
static inline Lanes hyperbolic_tangent(Lanes x) {
    const Lanes s = x * x;
    const Lanes series = x + x * s * (all(-1.0f / 3.0f) + s * (all(2.0f / 15.0f) + s * all(-17.0f / 315.0f)));
    const Lanes e = all(1.0f) - all(2.0f) / (exponential(x + x) + all(1.0f));
    return pick(s < all(0.04f), series, e);
}

// erf to 1.5e-7: Abramowitz and Stegun 1964, 7.1.26.
static inline Lanes error_function(Lanes x) {
    const Lanes a = pick(x < all(0.0f), -x, x);
    const Lanes t = all(1.0f) / (all(1.0f) + all(0.3275911f) * a);
    Lanes p = all(1.061405429f);
    p = p * t + all(-1.453152027f);
    p = p * t + all(1.421413741f);
    p = p * t + all(-0.284496736f);
    p = p * t + all(0.254829592f);
    const Lanes tail = p * t * exponential(-a * a);
    return pick(x < all(0.0f), tail - all(1.0f), all(1.0f) - tail);
}

static inline Lanes activated(Lanes v, Activation activation) {
    switch (activation) {
        case Activation::none:
            break;
        case Activation::relu:
            return pick(v < all(0.0f), all(0.0f), v);  // NaN stays
        case Activation::gelu:
            return all(0.5f) * v * (all(1.0f) + error_function(v * all(0.70710678f)));
        case Activation::gelu_tanh:
            return all(0.5f) * v *
                   (all(1.0f) + hyperbolic_tangent(all(0.79788456f) * (v + all(0.044715f) * v * v * v)));
        case Activation::silu:
            return v * logistic(v);
    }
    return v;
}

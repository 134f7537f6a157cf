// Vectors of the machine's width, their loads from every storage dtype, and the exponential.
#pragma once
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <type_traits>
#if defined(__F16C__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#define ORACLE_INLINE static inline __attribute__((always_inline))
// compiled once, not into every row type that uses it
#define ORACLE_MEMBER inline __attribute__((always_inline))
#define ORACLE_APART static __attribute__((noinline))

namespace oracle {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

typedef float FloatVector __attribute__((vector_size(kVectorBytes)));
typedef double DoubleVector __attribute__((vector_size(kVectorBytes)));
typedef int32_t FloatMask __attribute__((vector_size(kVectorBytes)));
typedef int64_t DoubleMask __attribute__((vector_size(kVectorBytes)));
typedef uint32_t FloatBits __attribute__((vector_size(kVectorBytes)));
typedef uint64_t DoubleBits __attribute__((vector_size(kVectorBytes)));

// What the kernels need to know of float and double.
template <class Real>
struct Simd;

template <>
struct Simd<float> {
    using Vector = FloatVector;
    using Mask = FloatMask;
    using Int = int32_t;
    static constexpr int lanes = kVectorBytes / 4;
};

template <>
struct Simd<double> {
    using Vector = DoubleVector;
    using Mask = DoubleMask;
    using Int = int64_t;
    static constexpr int lanes = kVectorBytes / 8;
};

template <class Real>
using Vector = typename Simd<Real>::Vector;

template <class Real>
ORACLE_INLINE Vector<Real> load(const Real* at) {
    Vector<Real> found;
    std::memcpy(&found, at, sizeof found);
    return found;
}

template <class Real>
ORACLE_INLINE void store(Real* at, Vector<Real> value) {
    std::memcpy(at, &value, sizeof value);
}

template <class Real>
ORACLE_INLINE Vector<Real> broadcast(Real value) {
    // less zero is the value itself, whatever its sign: a plain broadcast
    return value - Vector<Real>{};
}

template <class Real>
ORACLE_INLINE Vector<Real> select(typename Simd<Real>::Mask mask, Vector<Real> yes, Vector<Real> no) {
    return mask ? yes : no;
}

// The larger of two numbers in each lane, the second one where the first is none.
template <class Real>
ORACLE_INLINE Vector<Real> larger(Vector<Real> a, Vector<Real> b) {
    return a > b ? a : b;
}

// The smaller of two numbers in each lane, the second one where the first is none.
template <class Real>
ORACLE_INLINE Vector<Real> smaller(Vector<Real> a, Vector<Real> b) {
    return a < b ? a : b;
}

// A value where a mask is set, and zero elsewhere.
ORACLE_INLINE FloatVector kept(FloatMask mask, FloatVector value) {
    return (FloatVector)((FloatBits)mask & (FloatBits)value);
}

template <class Real>
ORACLE_INLINE bool any(typename Simd<Real>::Mask mask) {
    typename Simd<Real>::Int found = 0;
    for (int lane = 0; lane < Simd<Real>::lanes; ++lane) found |= mask[lane];
    return found != 0;
}

// A bit for each lane of a mask.
template <class Real>
ORACLE_INLINE uint32_t lanes_of(typename Simd<Real>::Mask mask) {
#if defined(__AVX512F__)
    const __m512i bits = (__m512i)mask;
    return sizeof(Real) == 4 ? uint32_t{_mm512_cmplt_epi32_mask(bits, _mm512_setzero_si512())}
                             : uint32_t{_mm512_cmplt_epi64_mask(bits, _mm512_setzero_si512())};
#elif defined(__AVX2__)
    return static_cast<uint32_t>(sizeof(Real) == 4 ? _mm256_movemask_ps((__m256)mask)
                                                   : _mm256_movemask_pd((__m256d)mask));
#else
    uint32_t found = 0;
    for (int lane = 0; lane < Simd<Real>::lanes; ++lane) found |= (mask[lane] ? 1u : 0u) << lane;
    return found;
#endif
}

// The sum of a vector's lanes.
template <class Real>
ORACLE_INLINE Real lane_sum(Vector<Real> value) {
    Real part[Simd<Real>::lanes];
    store(part, value);
#pragma GCC unroll 4
    for (int half = Simd<Real>::lanes / 2; half > 0; half /= 2)
#pragma GCC unroll 8
        for (int lane = 0; lane < half; ++lane) part[lane] += part[lane + half];
    return part[0];
}
#if defined(__AVX512F__)
template <>
inline __attribute__((always_inline)) float lane_sum<float>(FloatVector value) {
    return _mm512_reduce_add_ps((__m512)value);
}
template <>
inline __attribute__((always_inline)) double lane_sum<double>(DoubleVector value) {
    return _mm512_reduce_add_pd((__m512d)value);
}
#endif

// The sums of the lanes of COUNT vectors.
template <class Real, int COUNT>
ORACLE_INLINE void lane_sums(const Vector<Real>* of, Real* out) {
    for (int i = 0; i < COUNT; ++i) out[i] = lane_sum<Real>(of[i]);
}
#if defined(__AVX2__)
ORACLE_INLINE __m256 half_sum(FloatVector value) {
#if defined(__AVX512F__)
    return _mm256_add_ps(_mm512_castps512_ps256((__m512)value), _mm512_extractf32x8_ps((__m512)value, 1));
#else
    return (__m256)value;
#endif
}
template <>
inline __attribute__((always_inline)) void lane_sums<float, 4>(const FloatVector* of, float* out) {
    const __m256 first = _mm256_hadd_ps(half_sum(of[0]), half_sum(of[1]));
    const __m256 second = _mm256_hadd_ps(half_sum(of[2]), half_sum(of[3]));
    const __m256 all = _mm256_hadd_ps(first, second);
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
}
#endif

// 16-bit floats are kept as their bits
struct Half {
    uint16_t bits;
};
struct Brain {
    uint16_t bits;
};

ORACLE_INLINE float widened(float value) {
    return value;
}
ORACLE_INLINE double widened(double value) {
    return value;
}
ORACLE_INLINE float widened(uint8_t value) {
    return static_cast<float>(value);
}
ORACLE_INLINE float widened(int8_t value) {
    return static_cast<float>(value);
}

ORACLE_INLINE float widened(Brain value) {
    const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
    float found;
    std::memcpy(&found, &bits, sizeof found);
    return found;
}

ORACLE_INLINE float widened(Half value) {
#if defined(__F16C__)
    return _cvtsh_ss(value.bits);
#else
    _Float16 found;
    std::memcpy(&found, &value.bits, sizeof found);
    return static_cast<float>(found);
#endif
}

// A float64 number in another dtype; numbers of 16 bits by way of float32, as torch has them.
template <class T>
ORACLE_INLINE T narrowed(double value) {
    return static_cast<T>(value);
}
template <>
inline __attribute__((always_inline)) Brain narrowed<Brain>(double value) {
    const float single = static_cast<float>(value);
    uint32_t bits;
    std::memcpy(&bits, &single, sizeof bits);
    // to the nearest, to the even one of two; what is no number stays none
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return {static_cast<uint16_t>(single == single ? rounded : 0x7fc0)};
}
template <>
inline __attribute__((always_inline)) Half narrowed<Half>(double value) {
#if defined(__F16C__)
    return {static_cast<uint16_t>(_cvtss_sh(static_cast<float>(value), 0))};
#else
    const _Float16 half = static_cast<_Float16>(static_cast<float>(value));
    Half found;
    std::memcpy(&found.bits, &half, sizeof found);
    return found;
#endif
}

// The next vector of stored values as Real; the compiler turns the loop into its widening loads.
template <class Real, class Stored>
ORACLE_INLINE Vector<Real> load_widened(const Stored* at) {
    Vector<Real> found;
#pragma GCC unroll 16
    for (int lane = 0; lane < Simd<Real>::lanes; ++lane) found[lane] = static_cast<Real>(widened(at[lane]));
    return found;
}

template <>
inline __attribute__((always_inline)) FloatVector load_widened<float, float>(const float* at) {
    return load(at);
}

template <>
inline __attribute__((always_inline)) DoubleVector load_widened<double, double>(const double* at) {
    return load(at);
}

#if defined(__AVX512F__)
template <>
inline __attribute__((always_inline)) FloatVector load_widened<float, uint8_t>(const uint8_t* at) {
    return (FloatVector)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)at)));
}
template <>
inline __attribute__((always_inline)) FloatVector load_widened<float, int8_t>(const int8_t* at) {
    return (FloatVector)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)at)));
}
template <>
inline __attribute__((always_inline)) FloatVector load_widened<float, Half>(const Half* at) {
    return (FloatVector)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)at));
}
template <>
inline __attribute__((always_inline)) FloatVector load_widened<float, Brain>(const Brain* at) {
    return (FloatVector)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)at)), 16);
}
#elif defined(__AVX2__)
template <>
inline __attribute__((always_inline)) FloatVector load_widened<float, uint8_t>(const uint8_t* at) {
    return (FloatVector)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)at)));
}
template <>
inline __attribute__((always_inline)) FloatVector load_widened<float, int8_t>(const int8_t* at) {
    return (FloatVector)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)at)));
}
template <>
inline __attribute__((always_inline)) FloatVector load_widened<float, Half>(const Half* at) {
    return (FloatVector)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)at));
}
template <>
inline __attribute__((always_inline)) FloatVector load_widened<float, Brain>(const Brain* at) {
    return (FloatVector)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)at)), 16);
}
#endif

// exp(x) for x <= 88, 0 below -87; within 2 units in the last place (Cephes' polynomial on |r| <= ln 2 / 2).
ORACLE_INLINE FloatVector exponential(FloatVector x) {
    const FloatMask lasts = ~(x < broadcast(-87.0f));
    x = larger<float>(broadcast(-87.0f), x);
    // adding and subtracting 1.5 * 2^23 rounds to a whole number, whose low bits the sum holds
    const FloatVector shifted = x * 1.44269504f + 12582912.0f;
    const FloatVector whole = shifted - 12582912.0f;
    const FloatVector rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    FloatVector sum = broadcast(1.9875691500e-4f);
    for (const float term : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        sum = sum * rest + term;
    sum = sum * (rest * rest) + (rest + 1.0f);
    const FloatBits power = ((FloatBits)shifted << 23) + (127u << 23);
    return kept(lasts, sum * (FloatVector)power);
}

// exp(x) for x <= 700, 0 below -700; within 2 units in the last place (Taylor's polynomial on |r| <= ln 2 / 2).
ORACLE_INLINE DoubleVector exponential(DoubleVector x) {
    const DoubleMask vanishes = x < broadcast(-700.0);
    x = select<double>(vanishes, broadcast(-700.0), x);
    const DoubleVector shifted = x * 1.4426950408889634 + 6755399441055744.0;
    const DoubleVector whole = shifted - 6755399441055744.0;
    const DoubleVector rest = (x - whole * 0.693145751953125) - whole * 1.42860682030941723212e-6;
    DoubleVector sum = broadcast(1.0 / 6227020800.0);
    for (const double term : {1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
                              1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5})
        sum = sum * rest + term;
    sum = sum * (rest * rest) + (rest + 1.0);
    const DoubleBits power = ((DoubleBits)shifted << 52) + (uint64_t{1023} << 52);
    return select<double>(vanishes, DoubleVector{}, sum * (DoubleVector)power);
}

}  // namespace oracle

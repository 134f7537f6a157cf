// Vectors of float64: stored values widened to them exactly, products and sums rounded once.
#pragma once
#include <cmath>

#include "core/simd.hpp"

namespace oracle {

using Wide = DoubleVector;
constexpr int kLanes = Simd<double>::lanes;

// as many lanes of 32 bits
typedef float NarrowFloats __attribute__((vector_size(kVectorBytes / 2)));
typedef int32_t NarrowInts __attribute__((vector_size(kVectorBytes / 2)));

ORACLE_INLINE Wide exactly(NarrowFloats value) {
    return __builtin_convertvector(value, Wide);
}
ORACLE_INLINE Wide exactly(NarrowInts value) {
    return __builtin_convertvector(value, Wide);
}

// The next kLanes stored values.
template <class T>
ORACLE_INLINE Wide wide(const T* at) {
    return load_widened<double>(at);
}

#if defined(__AVX512F__)
template <>
inline Wide wide<uint8_t>(const uint8_t* at) {
    return exactly((NarrowInts)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)at)));
}
template <>
inline Wide wide<int8_t>(const int8_t* at) {
    return exactly((NarrowInts)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)at)));
}
template <>
inline Wide wide<Half>(const Half* at) {
    return exactly((NarrowFloats)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)at)));
}
template <>
inline Wide wide<Brain>(const Brain* at) {
    const __m256i bits = _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)at)), 16);
    return exactly((NarrowFloats)bits);
}
template <>
inline Wide wide<float>(const float* at) {
    return exactly((NarrowFloats)_mm256_loadu_ps(at));
}
#elif defined(__AVX2__)
template <>
inline Wide wide<uint8_t>(const uint8_t* at) {
    return exactly((NarrowInts)_mm_cvtepu8_epi32(_mm_loadu_si32(at)));
}
template <>
inline Wide wide<int8_t>(const int8_t* at) {
    return exactly((NarrowInts)_mm_cvtepi8_epi32(_mm_loadu_si32(at)));
}
template <>
inline Wide wide<Half>(const Half* at) {
    return exactly((NarrowFloats)_mm_cvtph_ps(_mm_loadl_epi64((const __m128i*)at)));
}
template <>
inline Wide wide<Brain>(const Brain* at) {
    const __m128i bits = _mm_slli_epi32(_mm_cvtepu16_epi32(_mm_loadl_epi64((const __m128i*)at)), 16);
    return exactly((NarrowFloats)bits);
}
template <>
inline Wide wide<float>(const float* at) {
    return exactly((NarrowFloats)_mm_loadu_ps(at));
}
#endif

// The first `count` < kLanes values, then zeros.
template <class T>
ORACLE_INLINE Wide wide_some(const T* at, int64_t count) {
    T padded[kLanes] = {};
    std::memcpy(padded, at, count * sizeof(T));
    return wide(padded);
}

ORACLE_INLINE void store_some(double* at, Wide value, int64_t count) {
    std::memcpy(at, &value, count * sizeof(double));
}

// a b + c, rounded once.
ORACLE_INLINE Wide fused(Wide a, Wide b, Wide c) {
#if defined(__AVX512F__)
    return (Wide)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__FMA__)
    return (Wide)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
    Wide found;
    for (int lane = 0; lane < kLanes; ++lane) found[lane] = std::fma(a[lane], b[lane], c[lane]);
    return found;
#endif
}

// The same value, which the compiler may not take for the product that it is and join with a sum.
template <class V>
ORACLE_INLINE V rounded(V product) {
#if defined(__x86_64__)
    __asm__("" : "+x"(product));
#elif defined(__aarch64__)
    __asm__("" : "+w"(product));
#endif
    return product;
}

ORACLE_INLINE double lane_sum(Wide value) {
    return lane_sum<double>(value);
}

}  // namespace oracle

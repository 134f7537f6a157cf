// Rows in codes of eight bits, made as the rows pass by: what leading digits of queries are multiplied with.
#pragma once
#include "products/rows.hpp"

namespace oracle {

// the code of zero, and the largest code beyond it
constexpr int kZeroCode = 128;
constexpr float kLargestCode = 127.0f;

// float32 roundings of a norm, and of what it is multiplied with
constexpr double kNormUpward = 1.0 + 0x1p-19;

// of the largest value of a row over its deviation: what is left a row later
constexpr float kForgotten = 0.98f;

#if defined(__AVX2__)
// Writes values of at most kLargestCode as codes; returns what these stand for.
ORACLE_INLINE FloatVector write_codes(FloatVector values, uint8_t* codes) {
#if defined(__AVX512F__)
    const __m512i whole = _mm512_cvtps_epi32((__m512)values);
    const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_add_epi32(whole, _mm512_set1_epi32(kZeroCode)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), bytes);
    return (FloatVector)_mm512_cvtepi32_ps(whole);
#else
    const __m256i whole = _mm256_cvtps_epi32((__m256)values);
    const __m256i code = _mm256_add_epi32(whole, _mm256_set1_epi32(kZeroCode));
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(code), _mm256_extracti128_si256(code, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(codes), _mm_packus_epi16(words, words));
    return (FloatVector)_mm256_cvtepi32_ps(whole);
#endif
}

// A row in codes: `scale` times them but for a rest of norm `error`. largest: absolute value of the row.
struct Coded {
    float scale, error, largest;

    bool fits() const { return largest <= scale * kLargestCode; }
};

// Writes a row without the centre as codes of `scale`, [code_stride]: they mean something where it fits.
template <class Stored>
ORACLE_INLINE Coded code_row(const Stored* row, int64_t dim, const float* centre, float scale, uint8_t* codes) {
    constexpr int64_t W = Tile<float>::lanes;
    const FloatVector one = broadcast(scale), each = broadcast(scale > 0.0f ? 1.0f / scale : 0.0f);
    FloatVector square = {}, largest = {};
    for (int64_t d = 0; d < dim; d += W) {
        fetch_ahead(row + d);
        const FloatVector x = vector_from(row, d, dim, centre), rest = x - one * write_codes(x * each, codes + d);
        const FloatVector size = select<float>(x < FloatVector{}, -x, x);
        square += rest * rest, largest = select<float>(size > largest, size, largest);
    }
    float found = 0.0f;
    for (int lane = 0; lane < W; ++lane) found = std::max<float>(found, largest[lane]);
    return {scale, std::sqrt(lane_sum<float>(square)) * static_cast<float>(kNormUpward), found};
}

// Brings rows into codes by code(r, scale), as far as their values spread by those before them: a row that goes beyond
// is read twice.
template <class Code>
ORACLE_INLINE void code_by_spread(int64_t count, int64_t dim, Memory<float>& memory, const Code& code) {
    const float root = std::sqrt(static_cast<float>(dim));
    for (int64_t r = 0; r < count; ++r) {
        const float deviation = memory.norms[r] / root;
        Coded found = code(r, deviation * *memory.spread / kLargestCode);
        if (!found.fits()) found = code(r, found.largest / kLargestCode);
        memory.scales[r] = found.scale, memory.errors[r] = found.error;
        // what one row needs is forgotten after some dozens of others
        const float own = deviation > 0.0f ? found.largest / deviation : 0.0f;
        *memory.spread = std::max(own, kForgotten * *memory.spread);
    }
}

// Brings rows into codes.
template <class Stored>
ORACLE_APART void code_rows(const Stored* rows, int64_t count, int64_t dim, const float* centre,
                            Memory<float>& memory) {
    const int64_t stride = code_stride(dim);
    code_by_spread(count, dim, memory, [&](int64_t r, float scale) {
        return code_row(rows + r * dim, dim, centre, scale, memory.codes + r * stride);
    });
}
#endif

}  // namespace oracle

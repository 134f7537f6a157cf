// Rows in codes of eight bits, made as the rows pass by: what leading digits of queries are multiplied with.
#pragma once
#include "rows.hpp"

namespace oracle {

// the code of zero, and the largest code beyond it
constexpr int kZeroCode = 128, kLargestCode = 127;

// float32 roundings of a norm, and of what it is multiplied with
constexpr double kNormUpward = 1.0 + 0x1p-19;

#if defined(__AVX512F__)
// Brings a row without the centre into codes, [code_stride]: it is `scale` times them but for a rest of norm `error`.
template <class Stored>
ORACLE_INLINE void code_row(const Stored* row, int64_t dim, const float* centre, uint8_t* codes, float& scale,
                            float& error) {
    constexpr int64_t W = Tile<float>::lanes;
    __m512 largest = _mm512_setzero_ps(), square = _mm512_setzero_ps();
    for (int64_t d = 0; d < dim; d += W)
        largest = _mm512_max_ps(largest, _mm512_abs_ps((__m512)vector_from(row, d, dim, centre)));
    scale = _mm512_reduce_max_ps(largest) / kLargestCode;
    const __m512 one = _mm512_set1_ps(scale), each = _mm512_set1_ps(scale > 0.0f ? 1.0f / scale : 0.0f);
    for (int64_t d = 0; d < dim; d += W) {
        const __m512 x = (__m512)vector_from(row, d, dim, centre);
        const __m512i code = _mm512_cvtps_epi32(_mm512_mul_ps(x, each));
        const __m512 rest = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(code), one, x);
        square = _mm512_fmadd_ps(rest, rest, square);
        const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_add_epi32(code, _mm512_set1_epi32(kZeroCode)));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + d), bytes);
    }
    error = std::sqrt(_mm512_reduce_add_ps(square)) * static_cast<float>(kNormUpward);
}

template <class Stored>
ORACLE_APART void code_rows(const Stored* rows, int64_t count, int64_t dim, const float* centre,
                            Memory<float>& memory) {
    const int64_t stride = code_stride(dim);
    for (int64_t r = 0; r < count; ++r)
        code_row(rows + r * dim, dim, centre, memory.codes + r * stride, memory.scales[r], memory.errors[r]);
}
#endif

}  // namespace oracle

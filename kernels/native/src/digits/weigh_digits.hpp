// Weighted sums of 8-bit rows with weights in digits, exact sums of whole numbers: for blocks of which most rows have
// weight.
#pragma once
#include "digits/digits.hpp"

namespace oracle {

// the largest whole number that the two digits of a weight hold, and most rows of a block: sums of so many fit into 32
// bits
constexpr float kLargestWeight = 127.0f * 256 + 127.0f;
constexpr int64_t kMostWeighed = 256;

// The weight of a row is off by half of one in the last digit at most (root mean square), in a direction that a
// sequence of the golden ratio decides, so that rows of equal weight do not err alike. Such errors add up as their
// squares do: an error of a mean, relative to the distance of its rows, that leaves room to the rounding of float32
// sums.
constexpr double kHalfDigit = 0.5, kFineMean = 2e-6;
constexpr double kGolden = 0.6180339887498949, kPlastic = 0.7548776662466927;

// share of the rows of a block that have weight, at least
constexpr double kDense = 0.5;

#if defined(__AVX512VNNI__)
// The fractions that weights of a row are rounded up from, [queries].
ORACLE_INLINE void write_dither(int64_t row, float* out) {
    for (int q = 0; q < DigitWeights::Q; ++q) {
        const double turns = static_cast<double>(row) * kGolden + q * kPlastic;
        out[q] = static_cast<float>(turns - std::floor(turns));
    }
}

// Finds the value of one in digits of weights, [count][queries].
ORACLE_APART void set_units(const float* weights, int64_t count, DigitWeights& out) {
    constexpr int Q = DigitWeights::Q;
    float largest[Q] = {};
    for (int64_t i = 0; i < count; ++i)
        for (int q = 0; q < Q; ++q) largest[q] = std::max(largest[q], weights[i * Q + q]);
    for (int q = 0; q < Q; ++q) out.unit[q] = largest[q] / kLargestWeight;
}

// Writes weights in digits of these units. first: row of the data that the block begins with; index: the rows that have
// any weight, [count]; weights: [count][queries].
ORACLE_APART void write_weights(int64_t first, const int32_t* index, const float* weights, int64_t count,
                                int64_t groups, DigitWeights& out) {
    constexpr int Q = DigitWeights::Q;
    float each[Q];
    for (int q = 0; q < Q; ++q) each[q] = out.unit[q] > 0.0f ? 1.0f / out.unit[q] : 0.0f, out.total[q] = 0;
    std::memset(out.digits, 0, groups * Q * 2 * kRowsAtOnce);
    for (int64_t i = 0; i < count; ++i) {
        int8_t* to = out.digits + index[i] / kRowsAtOnce * Q * 2 * kRowsAtOnce + index[i] % kRowsAtOnce;
        float dither[Q];
        write_dither(first + index[i], dither);
        for (int q = 0; q < Q; ++q) {
            // not beyond the largest number of two digits
            const float value = std::min(weights[i * Q + q] * each[q] + dither[q], kLargestWeight);
            const int32_t whole = static_cast<int32_t>(value);
            const int8_t low = static_cast<int8_t>(whole & 255);
            to[q * 2 * kRowsAtOnce] = low, to[(q * 2 + 1) * kRowsAtOnce] = static_cast<int8_t>((whole - low) >> 8);
            out.total[q] += whole;
        }
    }
}

// Sixteen coordinates of four rows without a sign, coordinate by coordinate.
template <class Stored>
ORACLE_INLINE __m512i four_rows(const Stored* const* row, int64_t d, int64_t dim) {
    __m128i bytes[kRowsAtOnce];
    const __mmask16 some = d + 16 <= dim ? 0xffff : d < dim ? (1u << (dim - d)) - 1 : 0;
    const __m128i sign = _mm_set1_epi8(std::is_same<Stored, int8_t>::value ? -128 : 0);
    for (int r = 0; r < kRowsAtOnce; ++r) bytes[r] = _mm_xor_si128(_mm_maskz_loadu_epi8(some, row[r] + d), sign);
    const __m128i first = _mm_unpacklo_epi8(bytes[0], bytes[1]), second = _mm_unpacklo_epi8(bytes[2], bytes[3]);
    const __m128i third = _mm_unpackhi_epi8(bytes[0], bytes[1]), fourth = _mm_unpackhi_epi8(bytes[2], bytes[3]);
    __m512i all = _mm512_castsi128_si512(_mm_unpacklo_epi16(first, second));
    all = _mm512_inserti32x4(all, _mm_unpackhi_epi16(first, second), 1);
    all = _mm512_inserti32x4(all, _mm_unpacklo_epi16(third, fourth), 2);
    return _mm512_inserti32x4(all, _mm_unpackhi_epi16(third, fourth), 3);
}

// Brings rows into groups of four, [D / P][groups][P / 16][64]; the last row stands in for those beyond, which weigh
// nothing.
template <class Stored>
ORACLE_APART void group_rows(const Stored* rows, int64_t count, int64_t dim, uint8_t* out) {
    constexpr int64_t P = Tile<float>::panel, VECTORS = Tile<float>::panel_vectors;
    const int64_t groups = padded(count, kRowsAtOnce) / kRowsAtOnce;
    for (int64_t group = 0; group < groups; ++group) {
        const Stored* row[kRowsAtOnce];
        for (int64_t r = 0; r < kRowsAtOnce; ++r) row[r] = rows + std::min(group * kRowsAtOnce + r, count - 1) * dim;
        for (int64_t d = 0; d < padded(dim, P); d += 16) {
            uint8_t* to = out + ((d / P * groups + group) * VECTORS + d % P / 16) * 64;
            _mm512_storeu_si512(to, four_rows(row, d, dim));
        }
    }
}

// Adds the weighted sums of a panel of a block to those of four queries. panel: [groups][P / 16][64]. weights: of the
// tile, and `first` of its queries. centre: of the rows as they are multiplied, [P]. sums: [4][P].
ORACLE_APART void weigh_digit_tile(const uint8_t* panel, int64_t groups, const DigitWeights& weights, int first,
                                   const int32_t* centre, float* sums) {
    constexpr int Q = DigitWeights::Q, P = Tile<float>::panel, VECTORS = Tile<float>::panel_vectors;
    __m512i low[4][VECTORS] = {}, high[4][VECTORS] = {};
    for (int64_t group = 0; group < groups; ++group) {
        __m512i x[VECTORS];
#pragma GCC unroll 3
        for (int v = 0; v < VECTORS; ++v) x[v] = _mm512_loadu_si512(panel + (group * VECTORS + v) * 64);
        const int8_t* digits = weights.digits + (group * Q + first) * 2 * kRowsAtOnce;
#pragma GCC unroll 4
        for (int q = 0; q < 4; ++q) {
            int32_t four[2];
            std::memcpy(four, digits + q * 2 * kRowsAtOnce, sizeof four);
            const __m512i one = _mm512_set1_epi32(four[0]), other = _mm512_set1_epi32(four[1]);
#pragma GCC unroll 3
            for (int v = 0; v < VECTORS; ++v) add_products(low[q][v], x[v], one), add_products(high[q][v], x[v], other);
        }
    }
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) {
        const __m512i total = _mm512_set1_epi32(weights.total[first + q]);
        const __m512 unit = _mm512_set1_ps(weights.unit[first + q]);
#pragma GCC unroll 3
        for (int v = 0; v < VECTORS; ++v) {
            const __m512i all = _mm512_add_epi32(_mm512_slli_epi32(high[q][v], 8), low[q][v]);
            const __m512i off = _mm512_mullo_epi32(_mm512_loadu_si512(centre + v * 16), total);
            const __m512 value = _mm512_cvtepi32_ps(_mm512_sub_epi32(all, off));
            float* at = sums + q * P + v * 16;
            _mm512_storeu_ps(at, _mm512_fmadd_ps(value, unit, _mm512_loadu_ps(at)));
        }
    }
}
#endif

}  // namespace oracle

// Weighted sums of 8-bit rows with weights in digits, exact sums of whole numbers: for blocks of which most rows have
// weight.
#pragma once
#include "digits/digits.hpp"

namespace oracle {

// The largest whole number that the digits of a weight hold, and most rows of a block: sums of so many fit into 32
// bits.
constexpr float kLargestWeight = kWeightDigits == 3 ? 127.0f * 65536 + 127.0f * 256 + 127.0f : 127.0f * 256 + 127.0f;
constexpr int64_t kMostWeighed = kMatrixUnits ? 512 : 256;

// The weight of a row is off by half of one in the last digit at most (root mean square), in a direction that a
// sequence of the golden ratio decides, so that rows of equal weight do not err alike. Such errors add up as their
// squares do: an error of a mean, relative to the distance of its rows, that leaves room to the rounding of float32
// sums. Three digits are always as fine.
constexpr double kHalfDigit = 0.5, kFineMean = 2e-6, kFinePlanes = 5e-7;
// of 2^32
constexpr uint32_t kGolden = 2654435769u, kPlastic = 3242174889u;

// share of the rows of a block that have weight, at least: a matrix unit multiplies many without any in the time of one
// that is multiplied by itself
constexpr double kDense = kMatrixUnits ? 0.0625 : 0.5, kDensePlanes = 0.25;

#if defined(__AVX512VNNI__) && !defined(__AMX_INT8__)
// The fractions that weights of a row are rounded up from, by query.
ORACLE_INLINE __m256 dither(int64_t row) {
    const __m256i query = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i turns = _mm256_add_epi32(_mm256_mullo_epi32(query, _mm256_set1_epi32(static_cast<int>(kPlastic))),
                                           _mm256_set1_epi32(static_cast<int>(static_cast<uint32_t>(row) * kGolden)));
    return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srli_epi32(turns, 8)), _mm256_set1_ps(0x1p-24f));
}

// Finds the value of one in digits of weights, [count][queries].
ORACLE_APART void set_units(const float* weights, int64_t count, DigitWeights& out) {
    constexpr int Q = DigitWeights::Q;
    float largest[Q] = {};
    for (int64_t i = 0; i < count; ++i)
        for (int q = 0; q < Q; ++q) largest[q] = std::max(largest[q], weights[i * Q + q]);
    for (int q = 0; q < Q; ++q) out.unit[q] = largest[q] / kLargestWeight;
}

// Writes weights in digits of these units, for `rows` of a block. first: row of the data that the block begins with;
// index: the rows that have any weight, [count]; weights: [count][queries].
ORACLE_APART void write_weights(int64_t first, const int32_t* index, const float* weights, int64_t count, int64_t rows,
                                DigitWeights& out) {
    constexpr int Q = DigitWeights::Q, step = kWeightDigits * kRowsAtOnce;
    float inverse[Q];
    for (int q = 0; q < Q; ++q) inverse[q] = out.unit[q] > 0.0f ? 1.0f / out.unit[q] : 0.0f;
    const __m256 each = _mm256_loadu_ps(inverse), largest = _mm256_set1_ps(kLargestWeight);
    const __m256i byte = _mm256_set1_epi32(255), half = _mm256_set1_epi32(128);
    const __m256i queries = _mm256_setr_epi32(0, step, 2 * step, 3 * step, 4 * step, 5 * step, 6 * step, 7 * step);
    __m256i totals[kWeightDigits] = {};
    int64_t i = 0;
    for (int64_t row = 0; row < rows; row += kRowsAtOnce) {
        __m256i digits[kWeightDigits] = {};
        for (int k = 0; k < kRowsAtOnce; ++k) {
            if (i == count || index[i] != row + k) continue;
            // not beyond the largest number that digits hold
            const __m256 value = _mm256_fmadd_ps(_mm256_loadu_ps(weights + i++ * Q), each, dither(first + row + k));
            __m256i whole = _mm256_cvttps_epi32(_mm256_min_ps(value, largest));
#pragma GCC unroll 2
            for (int digit = 0; digit < kWeightDigits; ++digit) {
                digits[digit] = _mm256_or_si256(digits[digit], _mm256_slli_epi32(_mm256_and_si256(whole, byte), 8 * k));
                // rounded to the nearest multiple of 256, which leaves a digit with a sign
                const __m256i above = _mm256_srli_epi32(_mm256_add_epi32(whole, half), 8);
                const __m256i own = _mm256_sub_epi32(whole, _mm256_slli_epi32(above, 8));
                totals[digit] = _mm256_add_epi32(totals[digit], own), whole = above;
            }
        }
        int8_t* to = out.digits + row * Q * kWeightDigits;
#pragma GCC unroll 2
        for (int digit = 0; digit < kWeightDigits; ++digit)
            _mm256_i32scatter_epi32(to + digit * kRowsAtOnce, queries, digits[digit], 1);
    }
    for (int digit = 0; digit < kWeightDigits; ++digit)
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out.total[digit]), totals[digit]);
}
#endif

#if defined(__AVX512VNNI__)
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

// Brings a panel of rows, from coordinate d on, into groups of four, [groups][P / 16][64]; the last row stands in for
// those beyond in its group, which weigh nothing. stride: from row to row.
template <class Stored>
ORACLE_APART void group_rows(const Stored* rows, int64_t stride, int64_t count, int64_t d, int64_t dim, uint8_t* out) {
    constexpr int64_t VECTORS = Tile<float>::panel_vectors;
    for (int64_t first = 0; first < count; first += kRowsAtOnce) {
        const Stored* row[kRowsAtOnce];
        for (int64_t r = 0; r < kRowsAtOnce; ++r) row[r] = rows + std::min(first + r, count - 1) * stride;
        uint8_t* to = out + first / kRowsAtOnce * VECTORS * 64;
#pragma GCC unroll 3
        for (int64_t v = 0; v < VECTORS; ++v) _mm512_storeu_si512(to + v * 64, four_rows(row, d + v * 16, dim));
    }
}

#if !defined(__AMX_INT8__)
// The sums of the low and of the high digits of 16 coordinates for one query.
struct DigitPair {
    __m512i low, high;
};

// Adds what sums of digits stand for to the sums of one query, [P], whose weights have such a unit and such a total.
// centre: of the rows as they are multiplied, [P].
ORACLE_INLINE void add_digit_sums(const DigitPair* of, float unit, int32_t total, const int32_t* centre, float* sums) {
    const __m512i all = _mm512_set1_epi32(total);
    const __m512 each = _mm512_set1_ps(unit);
#pragma GCC unroll 3
    for (int v = 0; v < Tile<float>::panel_vectors; ++v) {
        const __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(of[v].high, 8), of[v].low);
        const __m512i off = _mm512_mullo_epi32(_mm512_loadu_si512(centre + v * 16), all);
        const __m512 value = _mm512_cvtepi32_ps(_mm512_sub_epi32(sum, off));
        _mm512_storeu_ps(sums + v * 16, _mm512_fmadd_ps(value, each, _mm512_loadu_ps(sums + v * 16)));
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
        DigitPair of[VECTORS];
#pragma GCC unroll 3
        for (int v = 0; v < VECTORS; ++v) of[v] = {low[q][v], high[q][v]};
        const int32_t total = weights.total[1][first + q] * 256 + weights.total[0][first + q];
        add_digit_sums(of, weights.unit[first + q], total, centre, sums + q * P);
    }
}
#endif
#endif

}  // namespace oracle

// Products of 8-bit rows with the leading digits of many queries, in register tiles.
#pragma once
#include "digits/digit_tiles.hpp"
#include "digits/matrix_tiles.hpp"

namespace oracle {

// The operands of products with leading digits. rows: bytes, `stride` from row to row; scales: the value of one of
// each. panel: of a vector of queries, [digit_length / 4][16][4], those of vectors `panel_step` apart. queries: [16] of
// each vector. out: [_][16], those of vectors `out_step` apart. lines: as multiply_digits() has them.
template <class Byte>
struct LeadingOperands {
    const Byte* rows;
    const float* scales;
    int64_t stride, dim;
    const int8_t* panel;
    int64_t panel_step;
    const DigitQuery* queries;
    float* out;
    int64_t out_step;
    int lines;

    LeadingOperands from_row(int64_t row) const {
        LeadingOperands rest = *this;
        rest.rows += row * stride, rest.scales += row, rest.out += row * Tile<float>::lanes;
        return rest;
    }
};

#if defined(__AVX512VNNI__)
// rows of a tile, by how many vectors of queries it has
constexpr int leading_rows(int vectors) {
    return 24 / vectors;
}

// What the sums of leading digits of 16 queries stand for.
class LeadingValues {
  public:
    explicit LeadingValues(const DigitQuery* queries) {
        for (int k = 0; k < 16; ++k) {
            offset_[k / 8][k % 8] = static_cast<double>(queries[k].leading_offset);
            unit_[k / 8][k % 8] = queries[k].unit * kLeading;
        }
    }

    ORACLE_MEMBER void write(__m512i sums, float scale, float* out) const {
        const __m256 each = _mm256_set1_ps(scale);
        _mm256_storeu_ps(out, _mm256_mul_ps(half(_mm512_castsi512_si256(sums), 0), each));
        _mm256_storeu_ps(out + 8, _mm256_mul_ps(half(_mm512_extracti64x4_epi64(sums, 1), 1), each));
    }

  private:
    __m512d offset_[2], unit_[2];

    ORACLE_MEMBER __m256 half(__m256i sums, int which) const {
        return _mm512_cvtpd_ps(_mm512_mul_pd(_mm512_sub_pd(_mm512_cvtepi32_pd(sums), offset_[which]), unit_[which]));
    }
};

// Writes the products of a tile of ROWS rows with VECTORS vectors of queries.
template <int VECTORS, int ROWS, class Byte>
ORACLE_APART void score_leading_tile(const LeadingOperands<Byte>& of, Ahead& ahead) {
    // few addresses reach all rows
    const Byte* x[(ROWS + 2) / 3];
    for (int r = 0; r < (ROWS + 2) / 3; ++r) x[r] = of.rows + 3 * r * of.stride;
    __m512i sums[ROWS][VECTORS] = {};
    Ahead soon = ahead;
    for (int64_t d = 0; d < of.dim; d += kTogether) {
        soon.next();
        __m512i digits[VECTORS];
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; ++v) digits[v] = _mm512_loadu_si512(of.panel + v * of.panel_step + d * 16);
#pragma GCC unroll 24
        for (int r = 0; r < ROWS; ++r) {
            const __m512i values = four_unsigned(x[r / 3] + (r % 3) * of.stride + d);
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; ++v) add_products(sums[r][v], values, digits[v]);
        }
    }
    ahead = soon;
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; ++v) {
        const LeadingValues values(of.queries + v * 16);
#pragma GCC unroll 24
        for (int r = 0; r < ROWS; ++r) values.write(sums[r][v], of.scales[r], of.out + v * of.out_step + r * 16);
    }
}

#elif defined(__AVX2__)
// rows of a tile, by how many vectors of queries it has
constexpr int leading_rows(int) {
    return 8;
}

// The sums of neighbouring products of eight coordinates of a row with eight queries, in 16 bits.
template <class Byte>
ORACLE_INLINE __m256i eight_products(const Byte* row, __m256i first, __m256i second) {
    const __m256i one = _mm256_maddubs_epi16(four_unsigned(row), first);
    return _mm256_add_epi16(one, _mm256_maddubs_epi16(four_unsigned(row + kTogether), second));
}

// Writes what the sums of a row with the queries of a vector stand for.
ORACLE_INLINE void write_values(__m256i sums, const DigitQuery* queries, float scale, float* out) {
    int32_t whole[8];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(whole), sums);
    for (int k = 0; k < 8; ++k)
        out[k] =
            static_cast<float>(queries[k].unit * static_cast<double>(whole[k] - queries[k].leading_offset)) * scale;
}

// Writes the products of a tile of ROWS rows with VECTORS vectors of queries, one after the other.
template <int VECTORS, int ROWS, class Byte>
ORACLE_APART void score_leading_tile(const LeadingOperands<Byte>& of, Ahead& ahead) {
    const __m256i ones = _mm256_set1_epi16(1);
    const int64_t whole = of.dim / (2 * kTogether) * 2 * kTogether;
    Ahead soon = ahead;
    for (int v = 0; v < VECTORS; ++v) {
        const int8_t* panel = of.panel + v * of.panel_step;
        const auto digits = [&](int64_t d) {
            return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel + d * 8));
        };
        __m256i sums[ROWS] = {};
        for (int64_t d = 0; d < whole; d += 2 * kTogether) {
            soon.next();
            const __m256i first = digits(d), second = digits(d + kTogether);
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; ++r) {
                const __m256i some = eight_products(of.rows + r * of.stride + d, first, second);
                sums[r] = _mm256_add_epi32(sums[r], _mm256_madd_epi16(some, ones));
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) {
            if (whole < of.dim) {
                const __m256i last =
                    _mm256_maddubs_epi16(four_unsigned(of.rows + r * of.stride + whole), digits(whole));
                sums[r] = _mm256_add_epi32(sums[r], _mm256_madd_epi16(last, ones));
            }
            write_values(sums[r], of.queries + v * 8, of.scales[r], of.out + v * of.out_step + r * 8);
        }
    }
    ahead = soon;
}
#endif

#if defined(__AMX_INT8__)
// Writes the products of `count` rows; memory has rows up to a multiple of 32.
template <int VECTORS, class Byte>
void score_leading(const LeadingOperands<Byte>& of, int64_t count, Ahead& ahead) {
    alignas(64) int32_t sums[2 * VECTORS * kUnitSums];
    const int64_t length = digit_length(of.dim);
    for (int64_t r = 0; r < count; r += 2 * kUnitRows) {
        multiply_leading<VECTORS>({of.rows + r * of.stride, of.stride, length, of.panel}, of.panel_step, sums, ahead,
                                  of.lines);
        for (int v = 0; v < VECTORS; ++v) {
            const LeadingValues values(of.queries + v * 16);
            for (int64_t i = 0; i < std::min<int64_t>(2 * kUnitRows, count - r); ++i)
                values.write(_mm512_load_si512(sums + v * 2 * kUnitSums + i * 16), of.scales[r + i],
                             of.out + v * of.out_step + (r + i) * 16);
        }
    }
}
#elif defined(__AVX2__)
// Writes the products of `count` rows.
template <int VECTORS, class Byte>
void score_leading(const LeadingOperands<Byte>& of, int64_t count, Ahead& ahead) {
    constexpr int ROWS = leading_rows(VECTORS);
    int64_t r = 0;
    for (; r + ROWS <= count; r += ROWS) score_leading_tile<VECTORS, ROWS>(of.from_row(r), ahead);
    for (; r < count; ++r) score_leading_tile<VECTORS, 1>(of.from_row(r), ahead);
}
#endif

}  // namespace oracle

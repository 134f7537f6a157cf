// Products of rows in bytes with all digits of queries by matrix units.
#pragma once
#include "digits/digit_tiles.hpp"
#include "digits/matrix_tiles.hpp"

namespace oracle {

#if defined(__AMX_INT8__)
// 16 numbers in single precision.
ORACLE_INLINE __m512 to_single(const double* at) {
    const __m256 first = _mm512_cvtpd_ps(_mm512_loadu_pd(at)), second = _mm512_cvtpd_ps(_mm512_loadu_pd(at + 8));
    return _mm512_insertf32x8(_mm512_castps256_ps512(first), second, 1);
}

// Writes the sums of 32 rows with all digits of 16 queries, [2][kDigits][16][16]. lines: of what comes next that are
// asked for every 64 coordinates.
ORACLE_APART void multiply_digits(const ByteOperands& of, int32_t* out, Ahead& ahead, int lines) {
    const int8_t *low = of.panel, *middle = low + of.length * 16, *high = middle + of.length * 16;
    const uint8_t* second = of.rows + kUnitRows * of.stride;
    Ahead soon = ahead;
    clear_tiles<6>();
    for (int64_t d = 0; d < of.length; d += kUnitBytes) {
        soon.next(lines);
        load_tile<6>(of.rows + d, of.stride);
        load_tile<7>(low + d * 16, kUnitBytes);
        add_tile<0, 6, 7>();
        load_tile<7>(middle + d * 16, kUnitBytes);
        add_tile<1, 6, 7>();
        load_tile<7>(high + d * 16, kUnitBytes);
        add_tile<2, 6, 7>();
        load_tile<6>(second + d, of.stride);
        load_tile<7>(low + d * 16, kUnitBytes);
        add_tile<3, 6, 7>();
        load_tile<7>(middle + d * 16, kUnitBytes);
        add_tile<4, 6, 7>();
        load_tile<7>(high + d * 16, kUnitBytes);
        add_tile<5, 6, 7>();
    }
    ahead = soon;
    store_tiles<6>(out);
}

// Adds the products of a tile of rows in planes with all digits of 16 queries to three registers from SUMS on, by their
// place: 256^2, 256^3 and 256^4 of the lowest digits' product. What is below is left out.
template <int SUMS>
ORACLE_INLINE void add_planes(const uint8_t* high, int64_t plane, int64_t stride, const int8_t* q, int64_t digit) {
    load_tile<7>(q + 2 * digit, kUnitBytes);
    load_tile<6>(high + 2 * plane, stride);
    add_both_signed_tile<SUMS, 6, 7>();
    load_tile<6>(high + plane, stride);
    add_both_signed_tile<SUMS + 1, 6, 7>();
    load_tile<6>(high, stride);
    add_tile<SUMS + 2, 6, 7>();
    load_tile<7>(q + digit, kUnitBytes);
    add_tile<SUMS + 1, 6, 7>();
    load_tile<6>(high + plane, stride);
    add_both_signed_tile<SUMS, 6, 7>();
    load_tile<7>(q, kUnitBytes);
    load_tile<6>(high, stride);
    add_tile<SUMS, 6, 7>();
}

// As multiply_digits() for rows in planes, `plane` bytes apart, whose next block would not find room in the cache.
ORACLE_APART void multiply_planes(const ByteOperands& of, int64_t plane, int32_t* out) {
    clear_tiles<6>();
    for (int64_t d = 0; d < of.length; d += kUnitBytes) {
        add_planes<0>(of.rows + d, plane, of.stride, of.panel + d * 16, of.length * 16);
        add_planes<3>(of.rows + kUnitRows * of.stride + d, plane, of.stride, of.panel + d * 16, of.length * 16);
    }
    store_tiles<6>(out);
}

// What multiply_planes() leaves out but for the product of the lowest digits, [2][16][16].
ORACLE_APART void multiply_low_planes(const ByteOperands& of, int64_t plane, int32_t* out) {
    const uint8_t* second = of.rows + kUnitRows * of.stride;
    const int8_t *low = of.panel, *middle = low + of.length * 16;
    clear_tiles<2>();
    for (int64_t d = 0; d < of.length; d += kUnitBytes) {
        load_tile<7>(low + d * 16, kUnitBytes);
        load_tile<6>(of.rows + plane + d, of.stride);
        add_both_signed_tile<0, 6, 7>();
        load_tile<6>(second + plane + d, of.stride);
        add_both_signed_tile<1, 6, 7>();
        load_tile<7>(middle + d * 16, kUnitBytes);
        load_tile<6>(of.rows + 2 * plane + d, of.stride);
        add_both_signed_tile<0, 6, 7>();
        load_tile<6>(second + 2 * plane + d, of.stride);
        add_both_signed_tile<1, 6, 7>();
    }
    store_tiles<2>(out);
}

// Writes the sums of digits of 32 rows from row r on, the first `count` of them, as products with 16 queries.
// offsets, units: [16], as in DigitQuery. out: [count][16].
ORACLE_INLINE void write_products(const int32_t* sums, int64_t count, const double* offsets, const double* units,
                                  float* out) {
    for (int64_t i = 0; i < count; ++i) {
        const int32_t* at = sums + i / kUnitRows * kDigits * kUnitSums + i % kUnitRows * 16;
        const auto part = [&](int digit, int half) {
            return _mm256_load_si256(reinterpret_cast<const __m256i*>(at + digit * kUnitSums + half * 8));
        };
        for (int half = 0; half < 2; ++half)
            _mm256_storeu_ps(out + i * 16 + half * 8, digit_value(part(0, half), part(1, half), part(2, half),
                                                                  offsets + half * 8, units + half * 8));
    }
}

// coordinates up to which the sums of two neighbouring digits fit into 32 bits together
constexpr int64_t kShortRows = 256;

// The same for rows of up to kShortRows values, whose sums are put together in 32 bits before they are rounded.
ORACLE_INLINE void write_short_products(const int32_t* sums, int64_t count, const double* offsets, const double* units,
                                        float* out) {
    alignas(64) int32_t above[16], below[16];
    for (int b = 0; b < 16; ++b) {
        const auto offset = static_cast<int64_t>(offsets[b]);
        above[b] = static_cast<int32_t>(offset >> 8), below[b] = static_cast<int32_t>(offset & 255);
    }
    const __m512i high_offset = _mm512_load_si512(above), low_offset = _mm512_load_si512(below);
    const __m512 unit = to_single(units), base = _mm512_set1_ps(256.0f);
    for (int64_t i = 0; i < count; ++i) {
        const int32_t* at = sums + i / kUnitRows * kDigits * kUnitSums + i % kUnitRows * 16;
        const auto part = [&](int digit) { return _mm512_load_si512(at + digit * kUnitSums); };
        const __m512i high = _mm512_add_epi32(_mm512_slli_epi32(part(2), 8), part(1));
        const __m512 upper = _mm512_cvtepi32_ps(_mm512_sub_epi32(high, high_offset));
        const __m512 lower = _mm512_cvtepi32_ps(_mm512_sub_epi32(part(0), low_offset));
        _mm512_storeu_ps(out + i * 16, _mm512_mul_ps(_mm512_fmadd_ps(upper, base, lower), unit));
    }
}

// Writes <x_r - c, q> of `count` rows in bytes for the 16 queries of a panel, [count][16]; memory has rows up to a
// multiple of 32. offsets, units: as above.
ORACLE_APART void score_digit_rows(const ByteOperands& of, int64_t count, const double* offsets, const double* units,
                                   float* out, Ahead& ahead, int lines) {
    alignas(64) int32_t sums[2 * kDigits * kUnitSums];
    for (int64_t r = 0; r < count; r += 2 * kUnitRows) {
        multiply_digits({of.rows + r * of.stride, of.stride, of.length, of.panel}, sums, ahead, lines);
        const int64_t some = std::min<int64_t>(2 * kUnitRows, count - r);
        of.length <= kShortRows ? write_short_products(sums, some, offsets, units, out + r * 16)
                                : write_products(sums, some, offsets, units, out + r * 16);
    }
}

// Rows in planes, `plane` bytes apart: scales of their codes, and whether low digits of a row and a query show
// together.
struct PlaneOperands {
    ByteOperands rows;
    int64_t plane;
    const float* scales;
    bool low;
};

// The same for rows in planes.
ORACLE_APART void score_plane_rows(const PlaneOperands& all, int64_t count, const double* offsets, const double* units,
                                   float* out) {
    alignas(64) int32_t sums[2 * kDigits * kUnitSums];
    alignas(64) int32_t low[2 * kUnitSums] = {};
    const __m512 unit = to_single(units), least = _mm512_mul_ps(unit, _mm512_set1_ps(1.0f / 256));
    for (int64_t r = 0; r < count; r += 2 * kUnitRows) {
        const ByteOperands of{all.rows.rows + r * all.rows.stride, all.rows.stride, all.rows.length, all.rows.panel};
        const int64_t some = std::min<int64_t>(2 * kUnitRows, count - r);
        multiply_planes(of, all.plane, sums);
        write_products(sums, some, offsets, units, out + r * 16);
        if (all.low) multiply_low_planes(of, all.plane, low);
        for (int64_t i = 0; i < some; ++i) {
            const __m512 rest = _mm512_cvtepi32_ps(_mm512_load_si512(low + i * 16));
            float* at = out + (r + i) * 16;
            const __m512 total = _mm512_fmadd_ps(rest, least, _mm512_loadu_ps(at));
            _mm512_storeu_ps(at, _mm512_mul_ps(total, _mm512_set1_ps(all.scales[r + i])));
        }
    }
}
#endif

}  // namespace oracle

// Products of rows in bytes with all digits of queries by matrix units.
#pragma once
#include "digits/digit_tiles.hpp"
#include "digits/matrix_tiles.hpp"

namespace oracle {

#if defined(__AMX_INT8__)
// Writes the sums of 32 rows with all digits of 16 queries, [2][kDigits][16][16]. lines: of what comes next that are
// asked for every 64 coordinates.
ORACLE_APART void multiply_digits(const ByteOperands& of, int32_t* out, Ahead& ahead, int lines, const char* next) {
    const int8_t *low = of.panel, *middle = low + of.length * 16, *high = middle + of.length * 16;
    const uint8_t* second = of.rows + kUnitRows * of.stride;
    Ahead soon = ahead;
    clear_tiles<6>();
    for (int64_t d = 0; d < of.length; d += kUnitBytes) {
        soon.next(lines);
        for (int i = 0; i < 8; ++i) __builtin_prefetch(next + d * 8 + i * 64, 0, 2);
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

// Writes <x_r - c, q> of `count` rows for the 16 queries of a panel, [count][16]; memory has rows up to a multiple of
// 32. offsets, units: [16], as in DigitQuery.
ORACLE_APART void score_digit_rows(const ByteOperands& of, int64_t count, const double* offsets, const double* units,
                                   float* out, Ahead& ahead, int lines) {
    alignas(64) int32_t sums[2 * kDigits * kUnitSums];
    for (int64_t r = 0; r < count; r += 2 * kUnitRows) {
        multiply_digits({of.rows + r * of.stride, of.stride, of.length, of.panel}, sums, ahead, lines, reinterpret_cast<const char*>(of.panel) + of.length * 48 + r / 32 * of.length * 8);
        for (int64_t i = 0; i < std::min<int64_t>(2 * kUnitRows, count - r); ++i) {
            const int32_t* at = sums + i / kUnitRows * kDigits * kUnitSums + i % kUnitRows * 16;
            const auto part = [&](int digit, int half) {
                return _mm256_load_si256(reinterpret_cast<const __m256i*>(at + digit * kUnitSums + half * 8));
            };
            for (int half = 0; half < 2; ++half)
                _mm256_storeu_ps(out + (r + i) * 16 + half * 8,
                                 digit_value(part(0, half), part(1, half), part(2, half), offsets + half * 8,
                                             units + half * 8));
        }
    }
}
#endif

}  // namespace oracle

// Weighted sums of rows in bytes with weights in digits by matrix units.
#pragma once
#include "digits/matrix_tiles.hpp"
#include "digits/weigh_digits.hpp"

namespace oracle {

#if defined(__AMX_INT8__)
// Writes the sums of one digit of the weights of 16 queries over a panel of a block to SUMS tiles of registers, from
// the first one on. digits: [16][rows]. rows: of the block, weighed_rows. panel: [rows / 4][P / 16][64].
template <int FIRST>
ORACLE_INLINE void multiply_weights(const int8_t* digits, int64_t rows, const uint8_t* panel) {
    constexpr int64_t step = Tile<float>::panel_vectors * kUnitBytes;
    for (int64_t r = 0; r < rows; r += kUnitBytes) {
        const uint8_t* x = panel + r / kRowsAtOnce * step;
        load_tile<6>(digits + r, rows);
        load_tile<7>(x, step);
        add_signed_tile<FIRST, 6, 7>();
        load_tile<7>(x + kUnitBytes, step);
        add_signed_tile<FIRST + 1, 6, 7>();
        load_tile<7>(x + 2 * kUnitBytes, step);
        add_signed_tile<FIRST + 2, 6, 7>();
    }
}

// Writes the sums of all digits, [kWeightDigits][P / 16][16][16]. digits: [kWeightDigits][16][rows].
ORACLE_APART void multiply_all_weights(const int8_t* digits, int64_t rows, const uint8_t* panel, int32_t* out) {
    const int64_t step = kUnitRows * rows;
    clear_tiles<6>();
    multiply_weights<0>(digits, rows, panel);
    multiply_weights<3>(digits + step, rows, panel);
    store_tiles<6>(out);
    clear_tiles<3>();
    multiply_weights<0>(digits + 2 * step, rows, panel);
    store_tiles<3>(out + 6 * kUnitSums);
}

// Adds the weighted sums of a panel to those of a tile of queries. of: what multiply_all_weights wrote, from the first
// query of the tile on. centre: of the rows as they are multiplied, [P]. sums: [queries][P].
ORACLE_APART void add_weighed(const int32_t* of, const DigitWeights& weights, const int32_t* centre, float* sums) {
    constexpr int VECTORS = Tile<float>::panel_vectors;
    for (int q = 0; q < DigitWeights::Q; ++q) {
        const __m512 unit = _mm512_set1_ps(weights.unit[q]);
        const __m512 total = _mm512_set1_ps(static_cast<float>(weights.total[q]));
#pragma GCC unroll 3
        for (int v = 0; v < VECTORS; ++v) {
            const auto part = [&](int digit) {
                return _mm512_cvtepi32_ps(_mm512_load_si512(of + (digit * VECTORS + v) * kUnitSums + q * 16));
            };
            const __m512 most = _mm512_fmadd_ps(part(2), _mm512_set1_ps(256.0f), part(1));
            const __m512 all = _mm512_fmadd_ps(most, _mm512_set1_ps(256.0f), part(0));
            float* at = sums + q * Tile<float>::panel + v * 16;
            const __m512 off = _mm512_cvtepi32_ps(_mm512_loadu_si512(centre + v * 16));
            const __m512 value = _mm512_fnmadd_ps(off, total, all);
            _mm512_storeu_ps(at, _mm512_fmadd_ps(value, unit, _mm512_loadu_ps(at)));
        }
    }
}

// Asks for sums that will be added to soon.
ORACLE_INLINE void fetch_sums(const float* sums, int64_t count) {
    for (int64_t i = 0; i < count; i += 16) __builtin_prefetch(sums + i, 1, 2);
}
#endif

}  // namespace oracle

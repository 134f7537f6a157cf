// Weighted sums of rows in bytes with weights in digits by matrix units.
#pragma once
#include "digits/matrix_tiles.hpp"
#include "digits/weigh_digits.hpp"

namespace oracle {

#if defined(__AMX_INT8__)
template <int SUMS, bool SIGNED>
ORACLE_INLINE void add_weighed_tile() {
    SIGNED ? add_both_signed_tile<SUMS, 6, 7>() : add_signed_tile<SUMS, 6, 7>();
}

// Adds the sums of one digit of the weights of 16 queries over a panel of a block to three registers from SUMS on.
// digits: [16][rows]. rows: of the block, weighed_rows. panel: [rows / 4][P / 16][64]. SIGNED: whether it has signs.
template <int SUMS, bool SIGNED>
ORACLE_INLINE void multiply_weights(const int8_t* digits, int64_t rows, const uint8_t* panel) {
    constexpr int64_t step = Tile<float>::panel_vectors * kUnitBytes;
    for (int64_t r = 0; r < rows; r += kUnitBytes) {
        const uint8_t* x = panel + r / kRowsAtOnce * step;
        load_tile<6>(digits + r, rows);
        load_tile<7>(x, step);
        add_weighed_tile<SUMS, SIGNED>();
        load_tile<7>(x + kUnitBytes, step);
        add_weighed_tile<SUMS + 1, SIGNED>();
        load_tile<7>(x + 2 * kUnitBytes, step);
        add_weighed_tile<SUMS + 2, SIGNED>();
    }
}

// Writes the sums of all digits over rows in bytes, [kWeightDigits][P / 16][16][16]. digits: [kWeightDigits][16][rows].
ORACLE_APART void multiply_all_weights(const int8_t* digits, int64_t rows, const uint8_t* panel, int32_t* out) {
    const int64_t step = kUnitRows * rows;
    clear_tiles<6>();
    multiply_weights<0, false>(digits, rows, panel);
    multiply_weights<3, false>(digits + step, rows, panel);
    store_tiles<6>(out);
    clear_tiles<3>();
    multiply_weights<0, false>(digits + 2 * step, rows, panel);
    store_tiles<3>(out + 6 * kUnitSums);
}

// The same over rows in planes, by the place of the products, of which those below the third are left out. panel: that
// of the highest digits, then those of the lower ones.
ORACLE_APART void multiply_plane_weights(const int8_t* digits, int64_t rows, const uint8_t* panel, int32_t* out) {
    const int64_t step = kUnitRows * rows, plane = rows * Tile<float>::panel;
    const int8_t *middle = digits + step, *high = middle + step;
    clear_tiles<6>();
    multiply_weights<3, false>(high, rows, panel);
    multiply_weights<0, false>(middle, rows, panel);
    multiply_weights<0, true>(high, rows, panel + plane);
    store_tiles<6>(out + 3 * kUnitSums);
    clear_tiles<3>();
    multiply_weights<0, false>(digits, rows, panel);
    multiply_weights<0, true>(middle, rows, panel + plane);
    multiply_weights<0, true>(high, rows, panel + 2 * plane);
    store_tiles<3>(out);
}

// Adds the weighted sums of a panel to those of a tile of queries. of: what multiply_all_weights wrote, from the first
// query of the tile on. centre: of the rows as they are multiplied, [P]. sums: [queries][P].
ORACLE_APART void add_weighed(const int32_t* of, const DigitWeights& weights, const int32_t* centre, float* sums) {
    constexpr int VECTORS = Tile<float>::panel_vectors;
    const __m512 base = _mm512_set1_ps(256.0f);
    for (int q = 0; q < DigitWeights::Q; ++q) {
        const __m512 unit = _mm512_set1_ps(weights.unit[q]);
#pragma GCC unroll 3
        for (int v = 0; v < VECTORS; ++v) {
            const __m512 off = _mm512_cvtepi32_ps(_mm512_loadu_si512(centre + v * 16));
            // whole numbers of 24 bits at most: nothing is rounded before the digits come together
            const auto part = [&](int digit) {
                const __m512 sum =
                    _mm512_cvtepi32_ps(_mm512_load_si512(of + (digit * VECTORS + v) * kUnitSums + q * 16));
                return _mm512_fnmadd_ps(off, _mm512_set1_ps(static_cast<float>(weights.total[digit][q])), sum);
            };
            const __m512 all = _mm512_fmadd_ps(_mm512_fmadd_ps(part(2), base, part(1)), base, part(0));
            float* at = sums + q * Tile<float>::panel + v * 16;
            _mm512_storeu_ps(at, _mm512_fmadd_ps(all, unit, _mm512_loadu_ps(at)));
        }
    }
}

// Asks for sums that will be added to soon.
ORACLE_INLINE void fetch_sums(const float* sums, int64_t count) {
    for (int64_t i = 0; i < count; i += 16) __builtin_prefetch(sums + i, 1, 2);
}
#endif

}  // namespace oracle

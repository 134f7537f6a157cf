// Weighted sums of rows in bytes with weights in digits by matrix units.
#pragma once
#include "digits/matrix_tiles.hpp"
#include "digits/weigh_digits.hpp"

namespace oracle {

#if defined(__AMX_INT8__)
// Lays weights of a tile of queries, [count][queries], out by row, [rows][queries], with zeros where `index`, [count],
// names no row, and finds the value of one in their digits. Rows are `scales` times their codes, [block].
ORACLE_APART void lay_out_weights(const float* weights, const int32_t* index, const float* scales, int64_t count,
                                  int64_t rows, float* out, DigitWeights& of) {
    constexpr int Q = DigitWeights::Q;
    if (count < rows) std::fill_n(out, rows * Q, 0.0f);
    __m256 largest = _mm256_setzero_ps();
    for (int64_t i = 0; i < count; ++i) {
        const __m256 weight = _mm256_mul_ps(_mm256_loadu_ps(weights + i * Q), _mm256_set1_ps(scales[index[i]]));
        _mm256_storeu_ps(out + index[i] * Q, weight);
        largest = _mm256_max_ps(largest, weight);
    }
    _mm256_storeu_ps(of.unit, _mm256_div_ps(largest, _mm256_set1_ps(kLargestWeight)));
}

// One of the three bytes of each number of four vectors, side by side.
template <int DIGIT>
ORACLE_INLINE __m512i bytes_of(const __m512i* four) {
    const auto to_place = [&](int k) {
        const int left = 8 * (k - DIGIT);
        return left < 0 ? _mm512_srli_epi32(four[k], -left) : _mm512_slli_epi32(four[k], left);
    };
    const __m512i low = _mm512_mask_blend_epi8(0x2222222222222222, to_place(0), to_place(1));
    const __m512i high = _mm512_mask_blend_epi8(0x8888888888888888, to_place(2), to_place(3));
    return _mm512_mask_blend_epi16(0xaaaaaaaa, low, high);
}

// Turns the numbers of eight vectors around in both halves of these: vector q becomes the q-th of each.
ORACLE_INLINE void transpose_halves(__m512i* of) {
    __m512i two[8], four[8];
    for (int i = 0; i < 8; i += 2) {
        two[i] = _mm512_unpacklo_epi32(of[i], of[i + 1]);
        two[i + 1] = _mm512_unpackhi_epi32(of[i], of[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int k = 0; k < 2; ++k) {
            four[i + 2 * k] = _mm512_unpacklo_epi64(two[i + k], two[i + k + 2]);
            four[i + 2 * k + 1] = _mm512_unpackhi_epi64(two[i + k], two[i + k + 2]);
        }
    const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
    const __m512i second = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
    for (int i = 0; i < 4; ++i) {
        of[i] = _mm512_permutex2var_epi64(four[i], first, four[i + 4]);
        of[i + 4] = _mm512_permutex2var_epi64(four[i], second, four[i + 4]);
    }
}

// Writes weights of a tile of queries, [rows][queries], in digits of their units. first: row of the data that they
// begin with. Half of the rows of an operand lie beside the other half.
ORACLE_APART void write_weights(int64_t first, const float* weights, int64_t rows, DigitWeights& out) {
    constexpr int Q = DigitWeights::Q, kHalf = kUnitBytes / 2, kGroups = kHalf / kRowsAtOnce;
    const __m256 unit = _mm256_loadu_ps(out.unit);
    const __m256 inverse =
        _mm256_maskz_div_ps(_mm256_cmp_ps_mask(unit, _mm256_setzero_ps(), _CMP_GT_OQ), _mm256_set1_ps(1.0f), unit);
    const __m512 each = _mm512_broadcast_f32x8(inverse), largest = _mm512_set1_ps(kLargestWeight);
    // the highest bit of each digit: with it added digits have no sign, and it lies in a byte of its own
    const __m512i bits = _mm512_set1_epi32(0x808080), ones = _mm512_set1_epi8(1);
    const __m512i golden = _mm512_set1_epi32(static_cast<int>(kGolden));
    const __m512i query = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7);
    const __m512i half = _mm512_maskz_set1_epi32(0xff00, static_cast<int>(kHalf * kGolden));
    const __m512i begin =
        _mm512_add_epi32(_mm512_mullo_epi32(query, _mm512_set1_epi32(static_cast<int>(kPlastic))), half);
    __m512i totals[kWeightDigits] = {};
    for (int64_t r = 0; r < rows; r += kUnitBytes) {
        __m512i digits[kWeightDigits][kGroups];
        // the fractions that weights of a row are rounded up from
        __m512i turns =
            _mm512_add_epi32(begin, _mm512_set1_epi32(static_cast<int>(static_cast<uint32_t>(first + r) * kGolden)));
        for (int g = 0; g < kGroups; ++g) {
            __m512i four[kRowsAtOnce];
#pragma GCC unroll 4
            for (int k = 0; k < kRowsAtOnce; ++k) {
                const float* at = weights + (r + g * kRowsAtOnce + k) * Q;
                const __m512 both =
                    _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(at)), _mm256_loadu_ps(at + kHalf * Q), 1);
                const __m512 part = _mm512_cvtepi32_ps(_mm512_srli_epi32(turns, 8));
                const __m512 value = _mm512_fmadd_ps(part, _mm512_set1_ps(0x1p-24f), _mm512_mul_ps(both, each));
                // not beyond the largest number that digits hold
                const __m512i whole = _mm512_cvttps_epi32(_mm512_min_ps(value, largest));
                four[k] = _mm512_xor_si512(_mm512_add_epi32(whole, bits), bits);
                turns = _mm512_add_epi32(turns, golden);
            }
            digits[0][g] = bytes_of<0>(four), digits[1][g] = bytes_of<1>(four), digits[2][g] = bytes_of<2>(four);
#pragma GCC unroll 3
            for (int digit = 0; digit < kWeightDigits; ++digit) add_products(totals[digit], ones, digits[digit][g]);
        }
#pragma GCC unroll 3
        for (int digit = 0; digit < kWeightDigits; ++digit) {
            transpose_halves(digits[digit]);
            for (int q = 0; q < Q; ++q)
                _mm512_storeu_si512(out.digits + (digit * kUnitRows + q) * rows + r, digits[digit][q]);
        }
    }
    for (int digit = 0; digit < kWeightDigits; ++digit)
        _mm256_storeu_si256(
            reinterpret_cast<__m256i*>(out.total[digit]),
            _mm256_add_epi32(_mm512_castsi512_si256(totals[digit]), _mm512_extracti64x4_epi64(totals[digit], 1)));
}

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

// Rows in bytes as matrix units multiply them, and their products with leading digits.
#pragma once
#include "digits/digits.hpp"

namespace oracle {

#if defined(__AMX_INT8__)
// Rows in bytes, `stride` from row to row, and what they are multiplied with, [length / 4][16][4].
struct ByteOperands {
    const uint8_t* rows;
    int64_t stride, length;
    const int8_t* panel;
};

// Copies rows as they are stored, without a sign, and zeros beyond their end.
template <class Stored>
ORACLE_APART void copy_bytes(const Stored* rows, int64_t count, int64_t dim, uint8_t* out) {
    const int64_t stride = code_stride(dim), length = digit_length(dim);
    for (int64_t r = 0; r < count; ++r)
        for (int64_t d = 0; d < length; d += kDigitLanes)
            _mm512_storeu_si512(out + r * stride + d, unsigned_bytes(rows + r * dim + d, dim - d));
}

// Writes the sums of 32 rows with one digit of 16 queries each of VECTORS panels, `step` apart, [VECTORS][2][16][16].
template <int VECTORS>
ORACLE_APART void multiply_leading(const ByteOperands& of, int64_t step, int32_t* out, Ahead& ahead, int lines) {
    const uint8_t* second = of.rows + kUnitRows * of.stride;
    Ahead soon = ahead;
    clear_tiles<2 * VECTORS>();
    for (int64_t d = 0; d < of.length; d += kUnitBytes) {
        soon.next(lines);
        load_tile<4>(of.rows + d, of.stride);
        load_tile<6>(of.panel + d * 16, kUnitBytes);
        add_tile<0, 4, 6>();
        load_tile<5>(second + d, of.stride);
        add_tile<1, 5, 6>();
        if (VECTORS == 1) continue;
        load_tile<7>(of.panel + step + d * 16, kUnitBytes);
        add_tile<2, 4, 7>();
        add_tile<3, 5, 7>();
    }
    ahead = soon;
    store_tiles<2 * VECTORS>(out);
}

#endif

}  // namespace oracle

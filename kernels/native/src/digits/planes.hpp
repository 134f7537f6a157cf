// Rows in planes: three digits of eight bits of every value, relative to the largest of its row. The highest ones are
// codes without a sign, the lower ones have signs.
#pragma once
#include "digits/codes.hpp"

namespace oracle {

#if defined(__AMX_INT8__)
// units of the lowest digit in one of a code
constexpr float kFinest = 65536.0f;

// The least norm of a row in units of its codes: what is rounded off is then half of what the law expects of products
// in single precision, as where two coordinates at least are nearly as large as the largest one.
constexpr double kLeastNorm = 254.0;

// The least value of a code whose finest units single precision can count: smaller rows are zeros in codes, which
// bounds know, and stay out of planes.
constexpr float kLeastScale = 0x1p-108f;

// coordinates that are brought into planes together
constexpr int64_t kOfPlanes = 64;

// Which byte of each of 32 whole numbers in two vectors.
ORACLE_INLINE __m512i byte_of_each(int which) {
    alignas(64) static const struct Places {
        uint8_t at[64];
        constexpr Places() : at() {
            for (int i = 0; i < 64; ++i) at[i] = static_cast<uint8_t>(4 * (i % 32));
        }
    } places;
    return _mm512_add_epi8(_mm512_load_si512(places.at), _mm512_set1_epi8(static_cast<char>(which)));
}

// Writes a byte of each of 64 whole numbers.
ORACLE_INLINE void write_bytes(const __m512i* whole, __m512i which, void* to) {
    const __m512i first = _mm512_permutex2var_epi8(whole[0], which, whole[1]);
    const __m512i second = _mm512_permutex2var_epi8(whole[2], which, whole[3]);
    _mm512_storeu_si512(to, _mm512_inserti64x4(first, _mm512_castsi512_si256(second), 1));
}

// What a row in planes was made with.
struct PlaneRow {
    float scale;
    uint8_t* high;
    int64_t plane;
};

// Writes 64 coordinates of a row, of which those beyond its end are zero, in all planes, or in codes alone, of which
// `square` becomes what they leave. largest: absolute values so far.
template <bool ALL>
ORACLE_INLINE void write_planes(const FloatVector* x, const PlaneRow& to, int64_t d, FloatVector& square,
                                FloatVector& largest) {
    const FloatVector each = broadcast(to.scale >= kLeastScale ? kFinest / to.scale : 0.0f), one = broadcast(to.scale);
    // half of one of the digits above is added, which rounds what they leave to the nearest
    const __m512i to_middle = _mm512_set1_epi32(128), to_high = _mm512_set1_epi32((kZeroCode << 16) + (128 << 8) + 128);
    __m512i low[4], middle[4], high[4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
        low[v] = _mm512_cvtps_epi32((__m512)(x[v] * each));
        middle[v] = _mm512_add_epi32(low[v], to_middle), high[v] = _mm512_add_epi32(low[v], to_high);
        largest = larger<float>((FloatVector)_mm512_abs_ps((__m512)x[v]), largest);
        if (ALL) continue;
        const __m512i code = _mm512_sub_epi32(_mm512_srli_epi32(high[v], 16), _mm512_set1_epi32(kZeroCode));
        const FloatVector rest = x[v] - one * (FloatVector)_mm512_cvtepi32_ps(code);
        square += rest * rest;
    }
    write_bytes(high, byte_of_each(2), to.high + d);
    if (!ALL) return;
    write_bytes(middle, byte_of_each(1), to.high + to.plane + d);
    write_bytes(low, byte_of_each(0), to.high + 2 * to.plane + d);
}

// Writes a row without the centre in planes, or in codes alone: they mean something where it fits.
template <bool ALL, class Stored>
ORACLE_INLINE Coded plane_row(const Stored* row, int64_t dim, const float* centre, const PlaneRow& to) {
    constexpr int64_t W = Tile<float>::lanes;
    FloatVector square = {}, largest = {}, x[4];
    int64_t d = 0;
    for (; d + kOfPlanes <= dim; d += kOfPlanes) {
        fetch_ahead(row + d, kOfPlanes * sizeof(Stored));
#pragma GCC unroll 4
        for (int v = 0; v < 4; ++v) x[v] = row_vector(row, d + v * W, centre);
        write_planes<ALL>(x, to, d, square, largest);
    }
    if (d < dim) {
        for (int v = 0; v < 4; ++v) x[v] = vector_from(row, d + v * W, dim, centre);
        write_planes<ALL>(x, to, d, square, largest);
    }
    const float error = std::sqrt(lane_sum<float>(square)) * static_cast<float>(kNormUpward);
    return {to.scale, error, _mm512_reduce_max_ps((__m512)largest)};
}

// Brings rows into planes, or into codes alone.
template <bool ALL, class Stored>
ORACLE_APART void plane_rows(const Stored* rows, int64_t count, const Shape<float>& shape, const float* centre,
                             Memory<float>& memory) {
    const int64_t dim = shape.dim, stride = code_stride(dim), plane = plane_stride(shape.block, dim);
    code_by_spread(count, dim, memory, [&](int64_t r, float scale) {
        return plane_row<ALL>(rows + r * dim, dim, centre, {scale, memory.codes + r * stride, plane});
    });
}

// Brings rows in codes into the lower planes, too.
template <class Stored>
ORACLE_APART void refine_rows(const Stored* rows, int64_t count, const Shape<float>& shape, const float* centre,
                              Memory<float>& memory) {
    const int64_t dim = shape.dim, stride = code_stride(dim), plane = plane_stride(shape.block, dim);
    for (int64_t r = 0; r < count; ++r)
        plane_row<true>(rows + r * dim, dim, centre, {memory.scales[r], memory.codes + r * stride, plane});
}
#endif

}  // namespace oracle

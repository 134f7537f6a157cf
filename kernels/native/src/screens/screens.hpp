// Upper logits of a screen: products of stored rows with queries, and the terms beside them, from registers.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/simd.hpp"
#include "threads/share_out.hpp"

namespace oracle {

// rows whose largest upper logit stands for them until one of them turns out to matter
constexpr int kTile = 12;

// queries come in lanes of this many, whatever the width of a vector is
constexpr int64_t kLaneUnit = 16;

constexpr int kLanesOfScreen = Simd<float>::lanes;

// rows of a tile that are summed in registers at once, beside two vectors of queries
constexpr int kRowsTogether = kVectorBytes == 32 ? 6 : 12;

constexpr float kClosed = -std::numeric_limits<float>::infinity();

enum class Codes : int64_t { f32, i8, u8 };

struct ScreenView {
    const void* rows;  // [N, width], `stride` values apart
    int64_t codes, stride, width;
    const float* features;  // [N, feature_width], beside 8-bit codes, or null
    int64_t feature_stride, feature_width;
    const double *half_norms, *log_weights;  // [N] or null
    const float* shared;                     // [N, shared_stride], products of trajectories, or null
    int64_t shared_stride;
    int64_t start, stop;  // the span

    int64_t tiles() const { return (stop - start + kTile - 1) / kTile; }
};

struct BoundView {
    int64_t count;
    const void* factors;           // [B, width] float; beside codes the digits, [B, 2, width] int8
    const int32_t* origin;         // [B, 2]: what the sums of each digit with unsigned bytes begin with, or null
    const float* step;             // [B, 2]: what a digit is worth, or null
    const float* feature_gains;    // [B, feature_width] or null
    const float* norm_gain;        // [B], the factor of half norms, or null
    const float* slack;            // [B]
    const float* shared_gain;      // [B] or null
    const int64_t* shared_column;  // [B] or null
    const int64_t* excluded;       // [B, ranges, 2]
    int64_t ranges, threads;
    int64_t digits;  // that all rows are multiplied with: one or two; single rows are with both

    int64_t lanes() const { return (count + kLaneUnit - 1) / kLaneUnit * kLaneUnit; }
};

// sums[r][v] = <x_r, q_v> over `width` values of ROWS rows `stride` apart; queries: [width][VECTORS * lanes].
template <int ROWS, int VECTORS>
ORACLE_INLINE void multiply_floats(const float* rows, int64_t stride, int64_t width, const float* queries,
                                   FloatVector (*sums)[VECTORS]) {
    // few addresses reach all rows
    const float* x[ROWS / 3];
    for (int r = 0; r < ROWS / 3; ++r) x[r] = rows + 3 * r * stride;
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; ++v) sums[r][v] = FloatVector{};
    for (int64_t d = 0; d < width; ++d) {
        FloatVector column[VECTORS];
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; ++v) column[v] = load(queries + (d * VECTORS + v) * kLanesOfScreen);
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; ++r) {
            const FloatVector value = broadcast(x[r / 3][(r % 3) * stride + d]);
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; ++v) sums[r][v] += value * column[v];
        }
    }
}

// sum + the products of four bytes of a row, broadcast, with those of each lane.
ORACLE_INLINE FloatMask add_four(FloatMask sum, uint32_t row, FloatMask digits) {
#if defined(__AVX512VNNI__)
    return (FloatMask)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(static_cast<int>(row)), (__m512i)digits);
#elif defined(__AVX2__)
    const __m256i bytes = _mm256_set1_epi32(static_cast<int>(row)), low = _mm256_set1_epi16(0xff);
    const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16((__m256i)digits, 8), 8);
    const __m256i odd = _mm256_srai_epi16((__m256i)digits, 8);
    const __m256i first = _mm256_madd_epi16(_mm256_and_si256(bytes, low), even);
    const __m256i second = _mm256_madd_epi16(_mm256_srli_epi16(bytes, 8), odd);
    return sum + (FloatMask)_mm256_add_epi32(first, second);
#else
    for (int lane = 0; lane < kLanesOfScreen; ++lane)
        for (int byte = 0; byte < 4; ++byte)
            sum[lane] += static_cast<int32_t>(row >> (8 * byte) & 0xff) *
                         static_cast<int8_t>(static_cast<uint32_t>(digits[lane]) >> (8 * byte) & 0xff);
    return sum;
#endif
}

// `count` <= 4 bytes of a row as one word; signed ones are read as unsigned ones that are 128 larger.
template <bool SIGNED>
ORACLE_INLINE uint32_t four_of(const uint8_t* at, int64_t count = 4) {
    uint32_t word = 0;
    std::memcpy(&word, at, count);
    return SIGNED ? word ^ 0x80808080u : word;
}

// sums[r][digit] = the exact products of ROWS rows of bytes with two digits, or one digit of two vectors of queries;
// digits: [width / 4][2][lanes][4].
template <bool SIGNED, int ROWS>
ORACLE_INLINE void multiply_codes(const uint8_t* rows, int64_t stride, int64_t width, const int32_t* digits,
                                  const FloatMask* origin, FloatMask (*sums)[2]) {
    const uint8_t* x[ROWS / 3];
    for (int r = 0; r < ROWS / 3; ++r) x[r] = rows + 3 * r * stride;
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r) sums[r][0] = origin[0], sums[r][1] = origin[1];
    const auto add = [&](int64_t d, int64_t count) __attribute__((always_inline)) {
        FloatMask both[2];
        std::memcpy(both, digits + d / 4 * 2 * kLanesOfScreen, sizeof both);
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; ++r) {
            const uint32_t word = four_of<SIGNED>(x[r / 3] + (r % 3) * stride + d, count);
            sums[r][0] = add_four(sums[r][0], word, both[0]);
            sums[r][1] = add_four(sums[r][1], word, both[1]);
        }
    };
    int64_t d = 0;
    for (; d + 4 <= width; d += 4) add(d, 4);
    if (d < width) add(d, width - d);
}

// The sum of a vector's lanes, halves first.
ORACLE_INLINE float sum_of(FloatVector value) {
    float lanes[kLanesOfScreen];
    store(lanes, value);
#pragma GCC unroll 4
    for (int half = kLanesOfScreen / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
    return lanes[0];
}

// out[r] = <x_r, q> over `width` values of R rows and one query.
template <int R>
ORACLE_INLINE void dot_floats(const float* rows, int64_t stride, int64_t width, const float* query, float* out) {
    constexpr int W = kLanesOfScreen;
    FloatVector sums[R] = {};
    int64_t d = 0;
    for (; d + W <= width; d += W) {
        const FloatVector values = load(query + d);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) sums[r] += load(rows + r * stride + d) * values;
    }
    float last[R] = {};
    for (; d < width; ++d)
        for (int r = 0; r < R; ++r) last[r] += rows[r * stride + d] * query[d];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) out[r] = sum_of(sums[r]) + last[r];
}

// sums[digit] = origin + the exact products of a row of bytes with two digits, [2][width].
template <bool SIGNED>
ORACLE_INLINE void dot_codes(const uint8_t* row, int64_t width, const int8_t* digits, const int32_t* origin,
                             int32_t* sums) {
    int64_t d = 0;
    sums[0] = origin[0], sums[1] = origin[1];
#if defined(__AVX512VNNI__)
    __m512i both[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    for (; d + 64 <= width; d += 64) {
        __m512i x = _mm512_loadu_si512(row + d);
        if (SIGNED) x = _mm512_xor_si512(x, _mm512_set1_epi8(-128));
        both[0] = _mm512_dpbusd_epi32(both[0], x, _mm512_loadu_si512(digits + d));
        both[1] = _mm512_dpbusd_epi32(both[1], x, _mm512_loadu_si512(digits + width + d));
    }
    sums[0] += _mm512_reduce_add_epi32(both[0]), sums[1] += _mm512_reduce_add_epi32(both[1]);
#endif
    int32_t high = 0, low = 0;
    for (; d < width; ++d) {
        const int32_t x = SIGNED ? row[d] ^ 128 : row[d];
        high += x * digits[d], low += x * digits[width + d];
    }
    sums[0] += high, sums[1] += low;
}

// Products of R rows from `row` on with one query.
template <int R>
ORACLE_INLINE void products_for_one(const ScreenView& screen, const BoundView& bound, int64_t row, int64_t query,
                                    float* out) {
    const auto codes = static_cast<Codes>(screen.codes);
    if (codes == Codes::f32) {
        const float* factors = static_cast<const float*>(bound.factors) + query * screen.width;
        return dot_floats<R>(static_cast<const float*>(screen.rows) + row * screen.stride, screen.stride, screen.width,
                             factors, out);
    }
    const auto* digits = static_cast<const int8_t*>(bound.factors) + 2 * query * screen.width;
    const float* step = bound.step + 2 * query;
    for (int r = 0; r < R; ++r) {
        const auto* x = static_cast<const uint8_t*>(screen.rows) + (row + r) * screen.stride;
        int32_t sums[2];
        if (codes == Codes::i8)
            dot_codes<true>(x, screen.width, digits, bound.origin + 2 * query, sums);
        else
            dot_codes<false>(x, screen.width, digits, bound.origin + 2 * query, sums);
        out[r] = static_cast<float>(sums[0]) * step[0] + static_cast<float>(sums[1]) * step[1];
    }
}

// Upper logits of R rows from `row` on for one query, whatever is excluded.
template <int R>
ORACLE_INLINE void upper_for_one(const ScreenView& screen, const BoundView& bound, int64_t row, int64_t query,
                                 float* out) {
    products_for_one<R>(screen, bound, row, query, out);
    if (screen.features != nullptr) {
        float beside[R];
        dot_floats<R>(screen.features + row * screen.feature_stride, screen.feature_stride, screen.feature_width,
                      bound.feature_gains + query * screen.feature_width, beside);
        for (int r = 0; r < R; ++r) out[r] += beside[r];
    }
    for (int r = 0; r < R; ++r) {
        if (screen.half_norms != nullptr)
            out[r] += static_cast<float>(screen.half_norms[row + r]) * bound.norm_gain[query];
        if (screen.log_weights != nullptr) out[r] += static_cast<float>(screen.log_weights[row + r]);
        if (screen.shared != nullptr)
            out[r] +=
                screen.shared[(row + r) * screen.shared_stride + bound.shared_column[query]] * bound.shared_gain[query];
        out[r] += bound.slack[query];
    }
}

// Upper logits of the rows of one tile for one query, -inf where a row does not count.
inline void tile_for_one(const ScreenView& screen, const BoundView& bound, int64_t tile, int64_t query, float* out) {
    const int64_t row = screen.start + tile * kTile, count = std::min<int64_t>(kTile, screen.stop - row);
    std::fill(out, out + kTile, kClosed);
    int64_t r = 0;
    for (; r + 4 <= count; r += 4) upper_for_one<4>(screen, bound, row + r, query, out + r);
    for (; r < count; ++r) upper_for_one<1>(screen, bound, row + r, query, out + r);
    const int64_t* range = bound.excluded + 2 * query * bound.ranges;
    for (int64_t h = 0; h < bound.ranges; ++h, range += 2)
        for (int64_t at = std::max(range[0], row); at < std::min(range[1], row + count); ++at) out[at - row] = kClosed;
}

}  // namespace oracle

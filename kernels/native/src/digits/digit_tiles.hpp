// Products of unsigned 8-bit rows with many queries in digits, in register tiles: four coordinates an instruction.
#pragma once
#include "digits/digits.hpp"

namespace oracle {

// rows of a tile
constexpr int kDigitRows = 8;

// Whether tiles of digits read rows of D bytes: as they are stored to the last word, or as a copy for a matrix unit.
constexpr bool by_whole_words(int64_t dim) {
    return kMatrixUnits || dim % kTogether == 0;
}

// Whether tiles of digits read these rows.
template <class Real, class Stored>
ORACLE_INLINE bool by_digit_tiles(int64_t dim) {
#if defined(__AVX512VNNI__)
    return std::is_same<Real, float>::value && sizeof(Stored) == 1 && by_whole_words(dim) && fits_digit_tiles(dim);
#else
    (void)dim;
    return false;
#endif
}

// queries from which on it pays to bring rows into codes, and into planes
constexpr int64_t kWorthCodes = 32, kWorthPlanes = 32;

// coordinates of rows in planes at most: three sums of their products fit into 32 bits together
constexpr int64_t kLongestPlanes = 1 << 14;

// What queries are written in digits for where a thread scans `count` rows.
template <class Real>
DigitUse digit_use(const ScanProblem& problem, int64_t count) {
#if defined(__AVX512VNNI__)
    constexpr bool products = true, leading = std::is_same<Real, float>::value;
#elif defined(__AVX2__)
    constexpr bool products = false, leading = std::is_same<Real, float>::value;
#else
    constexpr bool products = false, leading = false;
#endif
    const bool bytes = problem.stored <= kInt8, plain = problem.changes.vector == nullptr;
    const bool fits = bytes && !problem.few ? fits_digit_tiles(problem.dim) : fits_digits(problem.dim);
    if (!fits || count < kWorthDigits) return {};
    const bool worth = bytes ? by_whole_words(problem.dim) : problem.batch >= kWorthCodes;
    DigitUse use;
    use.rows = products && bytes;
    use.leading = leading && !problem.few && worth && fits_digits(problem.dim);
    use.codes = use.leading && !bytes;
    use.single = use.leading && !use.rows;
    use.planes = kMatrixUnits && use.codes && plain && problem.batch >= kWorthPlanes && problem.dim <= kLongestPlanes;
    use.weights = (use.rows && plain) || use.planes;
    use.alone = std::is_same<Real, float>::value && use.rows && !problem.few && worth;
    return use;
}

// Copies the digits of one query into its lane of a panel, [kDigits][digit_length / 4][W][4].
ORACLE_APART void place_digits(const DigitQuery& query, int64_t dim, int64_t lane, int8_t* panel) {
    constexpr int64_t W = Tile<float>::lanes;
    const int64_t whole = digit_length(dim);
    for (int digit = 0; digit < kDigits; ++digit)
        for (int64_t d = 0; d < whole; d += kTogether)
            std::memcpy(panel + (digit * whole + d) * W + lane * kTogether, query.digits + digit * query.width + d,
                        kTogether);
}

// Writes queries in digits: those of whole vectors, so that no two threads write into one.
template <class Real>
void pack_digits(const ScanProblem& problem, const Shape<Real>& shape, const Shared<Real>& shared, int64_t thread) {
    const int64_t width = digit_width(shape.dim), shift = problem.stored == kUint8 ? 0 : 128;
    const double* centre = problem.stored <= kInt8 ? problem.centre : nullptr;
    const int64_t W = shape.W, size = kDigits * digit_length(shape.dim);
    for (int64_t b = thread * W; b < shape.batch; b += b % W == W - 1 ? (problem.threads - 1) * W + 1 : 1) {
        DigitQuery& query = shared.in_digits[b];
        query = {shared.digits + b * kDigits * width, width, 0, 0, 1.0, 0.0, 0.0};
        write_digits(problem.point + b * shape.dim, problem.gain[b], centre, shape.dim, shift, query);
        shared.offsets[b] = static_cast<double>(query.offset), shared.units[b] = query.unit;
        if (shared.digit_panels) place_digits(query, shape.dim, b % W, shared.digit_panels + b / W * W * size);
        for (int64_t d = 0, stride = code_stride(shape.dim); shared.single && d < stride; ++d)
            shared.single[b * stride + d] =
                d < shape.dim ? static_cast<Real>(problem.gain[b] * problem.point[b * shape.dim + d]) : Real(0);
    }
    if (thread != 0) return;
    for (int64_t d = 0; shared.whole_centre && d < shape.panels * shape.width; ++d)
        shared.whole_centre[d] = d < shape.dim ? static_cast<int32_t>(centre ? std::lrint(centre[d]) : 0) + shift : 0;
    std::fill(shared.units + shape.batch, shared.units + shape.lanes(), 0.0);
    std::fill(shared.offsets + shape.batch, shared.offsets + shape.lanes(), 0.0);
    std::fill(shared.in_digits + shape.batch, shared.in_digits + shape.lanes(), DigitQuery{});
}

#if defined(__AVX512VNNI__)
// The value of a row's sums for eight queries: exact until it is rounded to single precision.
ORACLE_INLINE __m256 digit_value(__m256i low, __m256i middle, __m256i high, const double* offsets,
                                 const double* units) {
    __m512d total = _mm512_fmadd_pd(_mm512_cvtepi32_pd(high), _mm512_set1_pd(65536.0), _mm512_cvtepi32_pd(low));
    total = _mm512_fmadd_pd(_mm512_cvtepi32_pd(middle), _mm512_set1_pd(256.0), total);
    return _mm512_cvtpd_ps(_mm512_mul_pd(_mm512_sub_pd(total, _mm512_loadu_pd(offsets)), _mm512_loadu_pd(units)));
}

// Writes <x_r - c, q> of a tile of rows for the 16 queries of a panel. rows: `dim` bytes each, of which the first
// `count` rows are there. out: [kDigitRows][16]. offsets, units: [16], as in DigitQuery.
template <class Stored>
ORACLE_APART void score_digit_tile(const Stored* rows, int64_t count, int64_t dim, const int8_t* panel,
                                   const double* offsets, const double* units, float* out, Ahead& ahead) {
    const Stored* x[kDigitRows];
    for (int r = 0; r < kDigitRows; ++r) x[r] = rows + std::min<int64_t>(r, count - 1) * dim;
    __m512i sums[kDigitRows][kDigits] = {};
    Ahead soon = ahead;
    for (int64_t d = 0; d < dim; d += kTogether) {
        soon.next();
        __m512i digits[kDigits];
#pragma GCC unroll 3
        for (int digit = 0; digit < kDigits; ++digit)
            digits[digit] = _mm512_loadu_si512(panel + (digit * dim + d) * 16);
#pragma GCC unroll 8
        for (int r = 0; r < kDigitRows; ++r) {
            const __m512i values = four_unsigned(x[r] + d);
#pragma GCC unroll 3
            for (int digit = 0; digit < kDigits; ++digit) add_products(sums[r][digit], values, digits[digit]);
        }
    }
    ahead = soon;
#pragma GCC unroll 8
    for (int r = 0; r < kDigitRows; ++r) {
        if (r >= count) break;
        const __m512i low = sums[r][0], middle = sums[r][1], high = sums[r][2];
        _mm256_storeu_ps(out + r * 16, digit_value(_mm512_castsi512_si256(low), _mm512_castsi512_si256(middle),
                                                   _mm512_castsi512_si256(high), offsets, units));
        _mm256_storeu_ps(out + r * 16 + 8,
                         digit_value(_mm512_extracti64x4_epi64(low, 1), _mm512_extracti64x4_epi64(middle, 1),
                                     _mm512_extracti64x4_epi64(high, 1), offsets + 8, units + 8));
    }
}
#endif

}  // namespace oracle

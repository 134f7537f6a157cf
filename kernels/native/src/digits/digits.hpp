// Products of 8-bit rows with a query written in signed digits: exact sums of whole numbers.
#pragma once
#include "products/scan.hpp"

namespace oracle {

// Digits of a query, the largest whole number that they hold, and the value of one in the leading digit. Three of eight
// bits are as fine as single precision; where products of bytes are not summed to 32 bits, there is only a leading one,
// of which two products with bytes fit into 16 bits.
#if defined(__AVX512VNNI__)
constexpr int kDigits = 3;
constexpr double kLargest = 127.0 * 65536 + 127.0 * 256 + 127.0;
constexpr int64_t kLeading = 65536;
#else
constexpr int kDigits = 1;
constexpr double kLargest = 32.0;
constexpr int64_t kLeading = 1;
#endif

// The products of two digits that are left out of a product of 24 bits with another, root mean square of one coordinate
// in units of it, and how much larger a product of norms is beside which they do not show: half of the rounding that
// the law expects, 2^-25.
constexpr double kLowProduct = 74.0 * 74.0 * 1.4143 / 256, kLowShare = 0x1p26;

// rows from which on it pays to write queries in digits
constexpr int64_t kWorthDigits = 1024;

// coordinates of a vector of digits
constexpr int64_t kDigitLanes = 64;

// Whether digits pay for rows of D values, what is made of their sums considered, and these sums fit into 32 bits.
constexpr bool fits_digits(int64_t dim) {
    return 128 <= dim && dim <= 1 << 16;
}

// Whether they pay for rows of 8 bits and queries that are not few: a matrix unit multiplies 64 values at once.
constexpr bool fits_digit_tiles(int64_t dim) {
    return fits_digits(dim) || (kMatrixUnits && dim >= kUnitBytes && dim < 128);
}

// coordinates that are written in digits together, and sums that are kept side by side
constexpr int64_t kWritten = 64;

// Some coordinates of a query: in units of the last digit, and what is taken off the rows there.
struct Written {
    double values[kWritten], level[kWritten];
};

// What a query in digits is summed up by, coordinate by coordinate: `offset` and `leading_offset` are whole numbers.
struct DigitSums {
    double offset[kWritten] = {}, leading_offset[kWritten] = {}, lower[kWritten] = {}, leading[kWritten] = {};

    static double all(const double (&parts)[kWritten]) {
        double sum = 0.0;
        for (const double part : parts) sum += part;
        return sum;
    }
};

// Writes coordinates of a query in digits, from `at` on.
ORACLE_INLINE void write_some_digits(const Written& from, int64_t at, const DigitQuery& query, DigitSums& sums) {
    int32_t rest[kWritten];
    double left[kWritten];
    for (int64_t i = 0; i < kWritten; ++i) left[i] = std::rint(from.values[i]);
    for (int64_t i = 0; i < kWritten; ++i) rest[i] = static_cast<int32_t>(left[i]);
    for (int64_t i = 0; i < kWritten; ++i) sums.offset[i] += left[i] * from.level[i];
    for (int digit = 0; digit + 1 < kDigits; ++digit) {
        int8_t* low = query.digits + digit * query.width + at;
        for (int64_t i = 0; i < kWritten; ++i) low[i] = static_cast<int8_t>(rest[i]);
        // rounded to the nearest multiple of 256
        for (int64_t i = 0; i < kWritten; ++i) rest[i] = (rest[i] + 128) >> 8;
    }
    int8_t* first = query.digits + (kDigits - 1) * query.width + at;
    for (int64_t i = 0; i < kWritten; ++i) first[i] = static_cast<int8_t>(rest[i]);
    for (int64_t i = 0; i < kWritten; ++i) left[i] = static_cast<double>(rest[i]);
    for (int64_t i = 0; i < kWritten; ++i) {
        const double other = from.values[i] - left[i] * kLeading;
        sums.leading_offset[i] += left[i] * from.level[i], sums.leading[i] += left[i] * left[i];
        sums.lower[i] += other * other;
    }
}

// Returns the largest |value|.
ORACLE_INLINE double largest_of(const double* values, int64_t count) {
    double largest[kWritten] = {};
    int64_t first = 0;
    for (; first + kWritten <= count; first += kWritten)
        for (int64_t i = 0; i < kWritten; ++i) {
            const double value = std::fabs(values[first + i]);
            largest[i] = value > largest[i] ? value : largest[i];
        }
    for (; first < count; ++first) largest[0] = std::max(largest[0], std::fabs(values[first]));
    return *std::max_element(largest, largest + kWritten);
}

// Writes gain * point, [D], in digits; rows are larger by `shift` than the values that they stand for, which still
// carry `centre` where it is not null.
ORACLE_APART void write_digits(const double* point, double gain, const double* centre, int64_t dim, int64_t shift,
                               DigitQuery& query) {
    const double largest = std::fabs(gain) * largest_of(point, dim);
    query.unit = largest > 0.0 ? largest / kLargest : 1.0;
    const double each = gain / query.unit;
    DigitSums sums;
    for (int64_t d = 0; d < query.width; d += kWritten) {
        Written from{};
        const int64_t count = std::min(kWritten, dim - d);
        for (int64_t i = 0; i < count; ++i) from.values[i] = point[d + i] * each;
        for (int64_t i = 0; i < count; ++i)
            from.level[i] = (centre == nullptr ? 0.0 : std::rint(centre[d + i])) + shift;
        write_some_digits(from, d, query, sums);
    }
    query.offset = static_cast<int64_t>(DigitSums::all(sums.offset));
    query.leading_offset = static_cast<int64_t>(DigitSums::all(sums.leading_offset));
    query.lower_norm = query.unit * std::sqrt(DigitSums::all(sums.lower));
    query.leading_norm = query.unit * kLeading * std::sqrt(DigitSums::all(sums.leading));
}

#if defined(__AVX2__)
// Four coordinates of a row without a sign in every lane.
template <class Stored>
ORACLE_INLINE auto four_unsigned(const Stored* at) {
    uint32_t four;
    std::memcpy(&four, at, sizeof four);
    const int32_t found = static_cast<int32_t>(std::is_same<Stored, int8_t>::value ? four ^ 0x80808080u : four);
#if defined(__AVX512F__)
    return _mm512_set1_epi32(found);
#else
    return _mm256_set1_epi32(found);
#endif
}
#endif

#if defined(__AVX512VNNI__)
// Adds the products of four neighbouring bytes each. Written out because GCC 12 copies every sum before it adds to it.
ORACLE_INLINE void add_products(__m512i& sums, __m512i values, __m512i digits) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(values), "v"(digits));
}

// 64 coordinates of a row without a sign, and zeros beyond its end.
template <class Stored>
ORACLE_INLINE __m512i unsigned_bytes(const Stored* row, int64_t count) {
    const __mmask64 some = count >= kDigitLanes ? ~0ull : (1ull << count) - 1;
    const __m512i bytes = _mm512_maskz_loadu_epi8(some, row);
    return std::is_same<Stored, int8_t>::value ? _mm512_xor_si512(bytes, _mm512_set1_epi8(-128)) : bytes;
}

// Writes <x_r - c, q> of the rows of a block for one query.
template <class Stored>
ORACLE_APART void score_digits(const Stored* rows, int64_t count, int64_t dim, const DigitQuery& query, float* logits) {
    for (int64_t r = 0; r < count; ++r) {
        __m512i sums[2][kDigits] = {};
        for (int64_t d = 0; d < dim; d += 2 * kDigitLanes)
#pragma GCC unroll 2
            for (int part = 0; part < 2; ++part) {
                const int64_t at = d + part * kDigitLanes;
                if (at >= dim) break;
                fetch_ahead(rows + r * dim + at);
                const __m512i x = unsigned_bytes(rows + r * dim + at, dim - at);
#pragma GCC unroll 3
                for (int digit = 0; digit < kDigits; ++digit) {
                    const __m512i q = _mm512_loadu_si512(query.digits + digit * query.width + at);
                    add_products(sums[part][digit], x, q);
                }
            }
        int64_t total = -query.offset;
        for (int digit = 0; digit < kDigits; ++digit) {
            const __m512i both = _mm512_add_epi32(sums[0][digit], sums[1][digit]);
            total += _mm512_reduce_add_epi32(both) * (int64_t{1} << (8 * digit));
        }
        logits[r] = static_cast<float>(query.unit * static_cast<double>(total));
    }
}
#endif

}  // namespace oracle

// Products of 8-bit rows with a query written in signed digits: exact sums of whole numbers.
#pragma once
#include "scan.hpp"

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

// rows from which on it pays to write queries in digits
constexpr int64_t kWorthDigits = 1024;

// coordinates of a vector of digits
constexpr int64_t kDigitLanes = 64;

// Whether digits pay for rows of D values, what is made of their sums considered, and these sums fit into 32 bits.
constexpr bool fits_digits(int64_t dim) {
    return 128 <= dim && dim <= 1 << 16;
}

// Writes gain * point, [D], in digits; rows are larger by `shift` than the values that they stand for, which still
// carry `centre` where it is not null.
ORACLE_APART void write_digits(const double* point, double gain, const double* centre, int64_t dim, int64_t shift,
                               DigitQuery& query) {
    double largest = 0.0;
    for (int64_t d = 0; d < dim; ++d) largest = std::max(largest, std::fabs(gain * point[d]));
    query.unit = largest > 0.0 ? largest / kLargest : 1.0;
    const double each = 1.0 / query.unit;
    query.offset = query.leading_offset = 0;
    double lower = 0.0, leading = 0.0;
    for (int64_t d = 0; d < query.width; ++d) {
        const int64_t whole = d < dim ? std::lrint(gain * point[d] * each) : 0;
        int64_t rest = whole;
        for (int digit = 0; digit + 1 < kDigits; ++digit) {
            const int8_t low = static_cast<int8_t>(rest & 255);
            query.digits[digit * query.width + d] = low;
            rest = (rest - low) / 256;
        }
        query.digits[(kDigits - 1) * query.width + d] = static_cast<int8_t>(rest);
        if (d >= dim) continue;
        const int64_t level = (centre == nullptr ? 0 : std::lrint(centre[d])) + shift;
        query.offset += whole * level, query.leading_offset += rest * level;
        const double first = static_cast<double>(rest), other = gain * point[d] * each - first * kLeading;
        lower += other * other, leading += first * first;
    }
    query.lower_norm = query.unit * std::sqrt(lower), query.leading_norm = query.unit * kLeading * std::sqrt(leading);
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

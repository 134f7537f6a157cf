// Squared distances |x - alpha r|^2 in float64, from differences.
#pragma once
#include <algorithm>

#include "core/doubles.hpp"
#include "core/problem.hpp"

namespace oracle {

// values of a sum in one go: rounding errors of longer ones would outgrow the law of kernels/common/rescore.py
constexpr int64_t kLongestSum = 4096;

// rows whose differences are taken together: they share the query in registers and wait for memory at the same time
constexpr int kAbreast = 4;

// Adds |x - alpha row_r|^2 over the values [start, stop) to out[r]; scale is -alpha.
template <class T, int R>
ORACLE_INLINE void add_squares(const double* x, Wide scale, const T* const* row, int64_t start, int64_t stop,
                               double* out) {
    Wide total[R] = {};
    int64_t d = start;
    for (; d + kLanes <= stop; d += kLanes) {
        const Wide point = wide(x + d);
        for (int r = 0; r < R; ++r) {
            const Wide difference = fused(scale, wide(row[r] + d), point);
            total[r] = fused(difference, difference, total[r]);
        }
    }
    if (d < stop) {
        const Wide point = wide_some(x + d, stop - d);
        for (int r = 0; r < R; ++r) {
            const Wide difference = fused(scale, wide_some(row[r] + d, stop - d), point);
            total[r] = fused(difference, difference, total[r]);
        }
    }
    for (int r = 0; r < R; ++r) out[r] += lane_sum(total[r]);
}

// out[r] = |x - alpha row_r|^2 for R rows of dim values.
template <class T, int R>
ORACLE_INLINE void squared_distances(const double* x, double alpha, const T* const* row, int64_t dim, double* out) {
    const Wide scale = broadcast(-alpha);
    std::fill(out, out + R, 0.0);
    for (int64_t start = 0; start < dim; start += kLongestSum)
        add_squares<T, R>(x, scale, row, start, std::min(start + kLongestSum, dim), out);
}

// How far a float64 logit from differences may be off, in nats.
ORACLE_INLINE double difference_error(const QueriesView& queries, const Digits& digits, int64_t query, double logit) {
    const double below = std::max(-logit, 0.5);
    const double moved = queries.size[query] * std::sqrt(2.0 * below * queries.inverse_variance[query]);
    return digits.roundoff * (moved + below);
}

}  // namespace oracle

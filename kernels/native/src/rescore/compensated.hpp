// Logits in twice the digits of float64, for gaps that float64 does not hold: Dekker (1971), Knuth's two-sum.
#pragma once
#include "core/doubles.hpp"
#include "core/problem.hpp"

namespace oracle {

// high + low, |low| at most half a last place of high.
template <class V>
struct Twice {
    V high, low;
};

template <class V>
ORACLE_INLINE Twice<V> two_sum(V a, V b) {
    const V total = a + b, part = total - a;
    return {total, (a - (total - part)) + (b - part)};
}

ORACLE_INLINE Twice<Wide> two_product(Wide a, Wide b) {
    const Wide product = rounded(a * b);
    return {product, fused(a, b, -product)};
}

ORACLE_INLINE Twice<double> two_product(double a, double b) {
    const double product = rounded(a * b);
    return {product, std::fma(a, b, -product)};
}

template <class V>
ORACLE_INLINE void add_to(Twice<V>& sum, Twice<V> term) {
    const Twice<V> total = two_sum(sum.high, term.high);
    sum = {total.high, sum.low + (total.low + term.low)};
}

// (x - alpha value)^2
ORACLE_INLINE Twice<Wide> exact_square(Wide x, Wide alpha, Twice<Wide> value) {
    const Twice<Wide> drift = two_product(alpha, value.high);
    Twice<Wide> difference = two_sum(x, -drift.high);
    difference = two_sum(difference.high, difference.low - fused(alpha, value.low, drift.low));
    const Twice<Wide> square = two_product(difference.high, difference.high);
    return {square.high, fused(difference.high + difference.high, difference.low, square.low)};
}

// A query in the coordinates in which it was given, and a row in them.
template <class T>
struct ExactPair {
    const double* x;
    const T* row;
    const double* centre;
    bool centred;
    Wide alpha, scale, offset;

    Twice<Wide> square(Wide point, Wide stored, Wide middle) const {
        if (centred) return exact_square(point, alpha, two_sum(stored, -middle));
        const Twice<Wide> scaled = two_product(stored, scale);
        const Twice<Wide> moved = two_sum(scaled.high, offset);
        return exact_square(point, alpha, {moved.high, moved.low + scaled.low});
    }
    Twice<Wide> squares_at(int64_t d) const { return square(wide(x + d), wide(row + d), wide(centre + d)); }
    Twice<Wide> last_squares(int64_t d, int64_t count) const {
        return square(wide_some(x + d, count), wide_some(row + d, count), wide_some(centre + d, count));
    }
};

// |x - alpha X|^2 with x and X as they were given.
template <class T>
Twice<double> exact_distance(const ExactPair<T>& pair, int64_t dim) {
    Twice<Wide> sum = {};
    int64_t d = 0;
    for (; d + kLanes <= dim; d += kLanes) add_to(sum, pair.squares_at(d));
    Twice<double> total = {};
    for (int lane = 0; lane < kLanes; ++lane) add_to(total, Twice<double>{sum.high[lane], sum.low[lane]});
    if (d < dim) {
        // lanes without a value are no zeros where samples are scaled and moved
        const Twice<Wide> last = pair.last_squares(d, dim - d);
        for (int lane = 0; lane < dim - d; ++lane) add_to(total, Twice<double>{last.high[lane], last.low[lane]});
    }
    return total;
}

// log w - |x - alpha X|^2 / 2 sigma^2.
template <class T>
Twice<double> exact_logit(const RowsView& rows, const QueriesView& queries, int64_t query, int64_t row) {
    const bool centred = queries.centred != 0;
    const ExactPair<T> pair = {queries.given + query * rows.dim,
                               row_of<T>(rows, row),
                               rows.centre,
                               centred,
                               broadcast(queries.alpha[query]),
                               broadcast(queries.scale),
                               broadcast(queries.offset)};
    const Twice<double> distance = exact_distance(pair, rows.dim);
    const double unit = centred ? 1.0 : queries.scale;
    const double factor = -0.5 * queries.inverse_variance[query] / (unit * unit);
    Twice<double> logit = two_product(factor, distance.high);
    logit = two_sum(logit.high, logit.low + factor * distance.low);
    if (rows.log_weights == nullptr) return logit;
    const Twice<double> weighted = two_sum(logit.high, rows.log_weights[row]);
    // the log of no weight is infinite, and so is the sum
    return {weighted.high, std::isfinite(weighted.high) ? weighted.low + logit.low : 0.0};
}

}  // namespace oracle

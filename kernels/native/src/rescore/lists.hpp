// Lists of rows, one a query: scored by direct difference, in twice the digits where the gaps of a list ask for it.
#pragma once
#include "rescore/distances.hpp"
#include "rescore/states.hpp"
#include "threads/share_out.hpp"

namespace oracle {

// what a value of a row takes to score again, in operations
constexpr double kRescoring = 16.0;

// bytes of a row that are asked for before it is its turn; the rest follows by itself
constexpr int64_t kBytesAhead = 2048;

struct ListsView {
    const int64_t* first;  // [B + 1], where the list of a query starts
    const int64_t* row;    // [P], -1 for none
    int64_t threads;

    // How many threads to share the lists of so many queries out to.
    int64_t hands(int64_t queries, int64_t dim) const {
        return worth(threads, kRescoring * first[queries] * (dim + kItself));
    }
};

// Asks the memory for the first `most` bytes of a row; of row 0 for -1, none.
template <class T>
ORACLE_INLINE void ask_for(const RowsView& rows, int64_t row, int64_t most = kBytesAhead) {
    const char* start = reinterpret_cast<const char*>(row_of<T>(rows, std::max<int64_t>(row, 0)));
    const int64_t bytes = std::min<int64_t>(rows.dim * sizeof(T), most);
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(start + at);
}

// out[k] = |x - alpha r|^2 for the `count` rows of a list.
template <class T>
void list_distances(const RowsView& rows, const double* x, double alpha, const int64_t* row, int64_t count,
                    double* out) {
    int64_t k = 0;
    for (; k + kAbreast <= count; k += kAbreast) {
        const T* samples[kAbreast];
        for (int r = 0; r < kAbreast; ++r) samples[r] = row_of<T>(rows, std::max<int64_t>(row[k + r], 0));
        for (int64_t next = k + kAbreast; next < std::min(k + 2 * kAbreast, count); ++next) ask_for<T>(rows, row[next]);
        squared_distances<T, kAbreast>(x, alpha, samples, rows.dim, out + k);
    }
    for (; k < count; ++k) {
        const T* sample = row_of<T>(rows, std::max<int64_t>(row[k], 0));
        squared_distances<T, 1>(x, alpha, &sample, rows.dim, out + k);
    }
}

ORACLE_INLINE int64_t query_of(const ListsView& lists, int64_t queries, int64_t pair) {
    return std::upper_bound(lists.first, lists.first + queries + 1, pair) - lists.first - 1;
}

// out = squared distances of all pairs to points [B, dim]: each thread takes an equal share of the pairs. alpha: [B],
// or null for ones.
template <class T>
void all_distances(const RowsView& rows, const ListsView& lists, int64_t queries, const double* points,
                   const double* alpha, double* out) {
    const int64_t pairs = lists.first[queries], shares = lists.threads;
    share_out(lists.hands(queries, rows.dim), shares, [&](int64_t share) {
        const int64_t stop = pairs * (share + 1) / shares;
        int64_t at = pairs * share / shares;
        for (int64_t query = query_of(lists, queries, at); at < stop; ++query) {
            const int64_t end = std::min(stop, lists.first[query + 1]);
            const double scale = alpha == nullptr ? 1.0 : alpha[query];
            list_distances<T>(rows, points + query * rows.dim, scale, lists.row + at, end - at, out + at);
            at = end;
        }
    });
}

// From which logit of a list on they are needed in twice the digits; infinite where none is.
inline double exact_from(const QueriesView& queries, const Digits& digits, int64_t query, const double* logit,
                         int64_t count) {
    const double best = count == 0 ? kNothing : *std::max_element(logit, logit + count);
    if (!(best > kNothing)) return -kNothing;
    const double error = difference_error(queries, digits, query, best);
    const double floor = best - (digits.window + 2.0 * error);
    const int64_t near = std::count_if(logit, logit + count, [=](double one) { return one >= floor; });
    // gaps matter between samples that compete, and the logit itself to the log density
    const bool competing = digits.mergeable != 0 || near > 1;
    const bool needed = competing ? error > digits.gap_limit : error > digits.logit_share * std::fabs(best);
    return needed ? floor : -kNothing;
}

// Turns the distances of a list into logits, and sets low to 1 where they are needed in twice the digits, else to 0.
inline void coarse_logits(const RowsView& rows, const QueriesView& queries, const Digits& digits,
                          const ListsView& lists, int64_t query, double* high, double* low) {
    const int64_t start = lists.first[query], stop = lists.first[query + 1];
    for (int64_t k = start; k < stop; ++k) {
        const int64_t row = lists.row[k];
        high[k] *= -0.5 * queries.inverse_variance[query];
        if (rows.log_weights != nullptr && row >= 0) high[k] += rows.log_weights[row];
        if (row < 0) high[k] = kNothing;
    }
    const double floor = exact_from(queries, digits, query, high + start, stop - start);
    for (int64_t k = start; k < stop; ++k) low[k] = high[k] >= floor ? 1.0 : 0.0;
}

// high + low = logits of all pairs, [P]; -inf where there is no row.
template <class T>
void all_logits(const RowsView& rows, const QueriesView& queries, const Digits& digits, const ListsView& lists,
                double* high, double* low) {
    const int64_t pairs = lists.first[queries.count];
    const int64_t threads = lists.hands(queries.count, rows.dim);
    all_distances<T>(rows, lists, queries.count, queries.stored_point, queries.alpha, high);
    share_out_many(threads, queries.count,
                   [&](int64_t query) { coarse_logits(rows, queries, digits, lists, query, high, low); });
    // the pairs that need more digits are shared out anew: they may all be of one query
    share_out_many(threads, pairs, [&](int64_t k) {
        if (low[k] == 0.0) return;
        const Twice<double> logit = exact_logit<T>(rows, queries, query_of(lists, queries.count, k), lists.row[k]);
        high[k] = logit.high;
        low[k] = logit.low;
    });
}

}  // namespace oracle

// Products with posterior covariances, sum_j gamma_j (r_j - m) s_j, in one pass in float64 from differences.
#include <new>

#include "block_logits.hpp"
#include "threads.hpp"
#include "weighted.hpp"

namespace oracle {
namespace {

// What logits change by along a direction: s_j = <g, r_j - m> - c |r_j - m|^2 / 2.
struct DirectionsView {
    const double *lse, *lse_rest;  // [B], of the whole posterior
    const double* mean;            // [B, dim], m with the centre of the rows
    const double* vector;          // [B, dim], g
    const double* curvature;       // [B], c, null for zeros
    double* total;                 // [shares, B, dim], zero before
};

// first[r] = <g, row_r - m> and second[r] = |row_r - m|^2 of R rows.
template <class T, int R>
ORACLE_INLINE void changes(const T* const* row, const double* mean, const double* vector, int64_t dim, double* first,
                           double* second) {
    Wide products[R] = {}, squares[R] = {};
    int64_t d = 0;
    for (; d + kLanes <= dim; d += kLanes) {
        const Wide middle = wide(mean + d), along = wide(vector + d);
        for (int r = 0; r < R; ++r) {
            const Wide spread = wide(row[r] + d) - middle;
            products[r] = fused(along, spread, products[r]);
            squares[r] = fused(spread, spread, squares[r]);
        }
    }
    if (d < dim) {
        const Wide middle = wide_some(mean + d, dim - d), along = wide_some(vector + d, dim - d);
        for (int r = 0; r < R; ++r) {
            const Wide spread = wide_some(row[r] + d, dim - d) - middle;
            products[r] = fused(along, spread, products[r]);
            squares[r] = fused(spread, spread, squares[r]);
        }
    }
    for (int r = 0; r < R; ++r) {
        first[r] = lane_sum(products[r]);
        second[r] = lane_sum(squares[r]);
    }
}

// The same of all rows of a packed block.
void packed_changes(const Packed& block, const double* mean, const double* vector, double* first, double* second) {
    for (int64_t i = 0; i < block.width; i += kLanes) {
        Wide products = {}, squares = {};
        for (int64_t d = 0; d < block.dim; ++d) {
            const Wide spread = wide(block.values + d * block.width + i) - mean[d];
            products = fused(broadcast(vector[d]), spread, products);
            squares = fused(spread, spread, squares);
        }
        store(first + i, products);
        store(second + i, squares);
    }
}

// One query and one block of rows whose logits it has.
template <class T>
struct OneProduct {
    const Question& question;
    const DirectionsView& directions;
    BlockLogits<T>& block;
    int64_t query;
    double* total;

    double change(double first, double second) const {
        return directions.curvature == nullptr ? first : first - 0.5 * directions.curvature[query] * second;
    }
    const double* mean() const { return directions.mean + query * question.rows.dim; }
    const double* vector() const { return directions.vector + query * question.rows.dim; }

    // weights in block.logit
    void weigh() {
        const double lse = directions.lse[query], rest = directions.lse_rest[query];
        for (int64_t i = 0; i < block.width; i += kLanes)
            store(&block.logit[i], exponential((wide(&block.logit[i]) - lse) + (wide(&block.low[i]) - rest)));
    }

    // adds sum_j gamma_j s_j r_j to the total and returns sum_j gamma_j s_j
    double add_narrow(double* first, double* second) {
        packed_changes(block.block(), mean(), vector(), first, second);
        double sum = 0.0;
        for (int64_t i = 0; i < block.width; ++i)
            sum += first[i] = block.logit[i] == 0.0 ? 0.0 : block.logit[i] * change(first[i], second[i]);
        add_block(block.block(), first, total);
        return sum;
    }

    template <int R>
    double add_some(const T* const* row, const double* weight) {
        double first[R], second[R];
        changes<T, R>(row, mean(), vector(), question.rows.dim, first, second);
        double sum = 0.0;
        for (int r = 0; r < R; ++r) sum += first[r] = weight[r] * change(first[r], second[r]);
        add_rows<T, R>(row, first, question.rows.dim, total);
        return sum;
    }

    double add_wide() {
        const T* row[kAbreast];
        double weight[kAbreast], sum = 0.0;
        int held = 0;
        for (int64_t i = 0; i < block.count; ++i) {
            if (block.logit[i] < kNoShare) continue;
            row[held] = row_of<T>(question.rows, block.start + i);
            weight[held++] = block.logit[i];
            if (held < kAbreast) continue;
            sum += add_some<kAbreast>(row, weight);
            held = 0;
        }
        for (int r = 0; r < held; ++r) sum += add_some<1>(row + r, weight + r);
        return sum;
    }
};

// Products over rows [start, stop) for the queries [first, last).
template <class T>
void product_share(const Question& question, const DirectionsView& directions, int64_t share, int64_t start,
                   int64_t stop, int64_t first, int64_t last) {
    const int64_t dim = question.rows.dim;
    BlockLogits<T> block(question, last - first);
    std::vector<double> shares(last - first), room(2 * block.width);
    double* totals = directions.total + share * question.queries.count * dim;
    for (int64_t at = start; at < stop; at += block.width) {
        block.read(at, stop);
        for (int64_t query = first; query < last; ++query) {
            if ((query - first) % kTileQueries == 0)
                block.measure(query, std::min<int64_t>(kTileQueries, last - query));
            const double largest = block.score(query, (query - first) % kTileQueries);
            if (!block.weighs(query, largest, directions.lse[query])) continue;
            block.refine(query, directions.lse[query]);
            OneProduct<T> one = {question, directions, block, query, totals + query * dim};
            one.weigh();
            shares[query - first] +=
                dim < kNarrow ? one.add_narrow(room.data(), room.data() + block.width) : one.add_wide();
        }
    }
    for (int64_t query = first; query < last; ++query)
        for (int64_t d = 0; d < dim; ++d)
            totals[query * dim + d] -= shares[query - first] * directions.mean[query * dim + d];
}

}  // namespace
}  // namespace oracle

using namespace oracle;

// Products over a span in directions->total. Returns 0, or 1 where memory is short.
ORACLE_EXPORT int oracle_covariance(const RowsView* rows, const QueriesView* queries, const Digits* digits,
                                    const ScanView* asked, const DirectionsView* directions) {
    ScanView scan = *asked;
    scan.threads = usable_threads(scan.threads);
    const Question question = {*rows, *queries, *digits, scan};
    int failed = 0;
    with_storage(rows->storage, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        failed = shared_out(question, [&](int64_t share, int64_t start, int64_t stop, int64_t first, int64_t last) {
            product_share<T>(question, *directions, share, start, stop, first, last);
        });
    });
    return failed;
}

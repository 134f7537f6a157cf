// What becomes of the sums of a thread: emptied into double precision, and merged with those of the others.
#pragma once
#include "products/scan.hpp"

namespace oracle {

// Adds the sums of a tile of queries to their totals, which nothing was written to before the first time.
template <class Real>
ORACLE_APART void empty_sums(const Shape<Real>& shape, Memory<Real>& memory, int64_t tile) {
    memory.pending[tile] = 0;
    if (memory.total == nullptr) return;
    for (int64_t p = 0; p < shape.panels; ++p) {
        const int64_t first = tile * shape.of_tile, at = shape.offset(p, first);
        const int64_t count = std::min<int64_t>(shape.of_tile, shape.batch - first) * shape.width;
        Real* sums = memory.sums + at;
        double* total = memory.total + at;
        if (memory.emptied[tile])
            for (int64_t d = 0; d < count; ++d) total[d] += static_cast<double>(sums[d]);
        else
            for (int64_t d = 0; d < count; ++d) total[d] = static_cast<double>(sums[d]);
        std::fill_n(sums, count, Real(0));
    }
    memory.emptied[tile] = true;
}

// Where the totals of a query are from one panel on, or null where its sums are all there is.
template <class Real>
ORACLE_INLINE const double* total_of(const Shape<Real>& shape, const Memory<Real>& memory, int64_t panel, int64_t b) {
    const bool some = memory.total != nullptr && memory.emptied[b / shape.of_tile];
    return some ? memory.total + shape.offset(panel, b) : nullptr;
}

// The sums of a query over some of its rows, with weights relative to a reference: of all rows that were met, and over
// those that are not listed.
struct QuerySums {
    double reference, met, mass, squares, first_logit, half_norm;
};

template <class Real>
QuerySums sums_of_query(const Memory<Real>& memory, int64_t b) {
    return {double(memory.reference[b]), memory.met[b],         memory.mass[b],
            memory.squares[b],           memory.first_logit[b], memory.half_norm[b]};
}

// Merges the sums of a query over disjoint rows: factors, [count], are those of the sums of each part.
inline QuerySums merge_sums(const QuerySums* parts, int64_t count, double* factors) {
    QuerySums all{-std::numeric_limits<double>::infinity(), 0.0, 0.0, 0.0, 0.0, 0.0};
    for (int64_t i = 0; i < count; ++i) all.reference = std::max(all.reference, parts[i].reference);
    for (int64_t i = 0; i < count; ++i) {
        const QuerySums& own = parts[i];
        const double step = own.met > 0.0 ? own.reference - all.reference : 0.0;
        const double factor = own.met > 0.0 ? std::exp(step) : 0.0;
        factors[i] = factor;
        all.met += factor * own.met, all.mass += factor * own.mass;
        all.squares += factor * factor * own.squares, all.half_norm += factor * own.half_norm;
        all.first_logit += factor * (own.first_logit + step * own.mass);
    }
    return all;
}

// Writes the sums of a query, and returns from which logit on what it listed counts.
inline double write_sums(const ScanProblem& problem, const QuerySums& all, int64_t b) {
    const double partition = all.met > 0.0 ? all.reference + std::log(all.met) : all.reference;
    const double found[6] = {all.reference, partition, all.mass, all.squares, all.first_logit, all.half_norm};
    for (int64_t i = 0; i < 6; ++i) problem.sums[i * problem.batch + b] = found[i];
    return weight_floor(problem, b, partition);
}

// Starts the sums of a thread from nothing.
template <class Real>
ORACLE_APART void begin_sums(const ScanProblem& problem, const Shape<Real>& shape, Memory<Real>& memory) {
    // of few queries no sums beyond theirs are touched
    const int64_t lanes = shape.lanes(), values = (problem.few ? shape.batch : lanes) * shape.panels * shape.width;
    const Real nothing = -std::numeric_limits<Real>::infinity();
    if (problem.wants_mean) std::fill_n(memory.sums, values, Real(0));
    std::fill_n(memory.emptied, shape.tiles, false);
    std::fill_n(memory.reference, lanes, nothing);
    // sums of both signs stay as they are: no weight is larger than what is known of their sum
    for (int64_t b = 0; problem.changes.vector && b < shape.batch; ++b)
        memory.reference[b] = static_cast<Real>(problem.known[b]);
    // a row that is excluded has the logit -inf, and no logit reaches the floor of a lane without a query
    constexpr Real lowest = std::numeric_limits<Real>::lowest();
    std::fill_n(memory.floor, shape.batch, lowest);
    for (int64_t b = 0; problem.known && b < shape.batch; ++b)
        memory.floor[b] = std::max(lowest, static_cast<Real>(weight_floor(problem, b, problem.known[b])));
    std::fill_n(memory.floor + shape.batch, lanes - shape.batch, std::numeric_limits<Real>::quiet_NaN());
    for (double* sum :
         {memory.met, memory.mass, memory.squares, memory.first_logit, memory.half_norm, memory.rounded, memory.shares})
        std::fill_n(sum, lanes, 0.0);
    std::fill_n(memory.pending, shape.tiles, 0);
    std::fill_n(memory.patience, shape.vectors, Patience{0, kLeastPatience});
    std::fill_n(memory.top_logits, lanes * shape.top, nothing);
    std::fill_n(memory.top_rows, lanes * shape.top, int64_t{-1});
    std::fill_n(memory.list_count, lanes, int64_t{0});
    std::fill_n(memory.sparse, lanes, true);
    *memory.closed = *memory.weighed = *memory.seen = 0, *memory.spread = kSpread;
}

// Merges the sums of a query over all threads, apart from its mean: factors, [threads], are those of each thread's
// sums.
template <class Real>
ORACLE_APART void merge_query(const ScanProblem& problem, const Shape<Real>& shape, Memory<Real>* memories, int64_t b,
                              QuerySums* parts, double* factors) {
    int64_t listed = 0;
    for (int64_t t = 0; t < problem.threads; ++t)
        parts[t] = sums_of_query(memories[t], b), listed += memories[t].list_count[b];
    const double floor = write_sums(problem, merge_sums(parts, problem.threads, factors), b);
    problem.kept[b] = listed > shape.listed ? -1 : 0;
    if (listed == 0 || listed > shape.listed) return;
    for (int64_t t = 0; t < problem.threads; ++t)
        for (int64_t i = 0; i < memories[t].list_count[b]; ++i)
            problem.kept[b] += memories[t].list_logits[b * shape.listed + i] >= floor;
}

// Adds the sums of a query in all panels and threads to `out`, [D]; factors, [threads]: of each thread's sums.
template <class Real>
ORACLE_INLINE void add_sums(const ScanProblem& problem, const Shape<Real>& shape, const Memory<Real>* memories,
                            int64_t b, const double* factors, double* out) {
    for (int64_t p = 0; p < shape.panels; ++p, out += shape.width) {
        const int64_t count = std::min(shape.width, shape.dim - p * shape.width);
        for (int64_t t = 0; t < problem.threads; ++t) {
            const Real* sums = memories[t].sums + shape.offset(p, b);
            const double* total = total_of(shape, memories[t], p, b);
            if (total != nullptr)
                for (int64_t d = 0; d < count; ++d) out[d] += factors[t] * (double(sums[d]) + total[d]);
            else
                for (int64_t d = 0; d < count; ++d) out[d] += factors[t] * double(sums[d]);
        }
    }
}

// Merges the means of a query: zero where nothing was summed.
template <class Real>
ORACLE_APART void merge_mean(const ScanProblem& problem, const Shape<Real>& shape, Memory<Real>* memories, int64_t b,
                             const double* factors) {
    const double mass = problem.sums[2 * shape.batch + b];
    double* mean = problem.mean + b * shape.dim;
    std::fill_n(mean, shape.dim, 0.0);
    if (!(mass > 0.0)) return;
    add_sums(problem, shape, memories, b, factors, mean);
    for (int64_t d = 0; d < shape.dim; ++d) mean[d] /= mass;
}

// Merges the products of a query with the covariance over all threads, [D]: sums of weights that are multiplied with
// changes, from which as much of the mean is taken as they add up to.
template <class Real>
ORACLE_APART void merge_product(const ScanProblem& problem, const Shape<Real>& shape, Memory<Real>* memories, int64_t b,
                                const double* factors) {
    const ChangesView& changes = problem.changes;
    const double* mean = changes.asked->mean + b * shape.dim;
    double* total = changes.asked->total + b * shape.dim;
    // the reference is the log-partition as Real holds it
    const double step = problem.sums[b] - (problem.known[b] + changes.asked->lse_rest[b]);
    const double scale = problem.sums[2 * shape.batch + b] > 0.0 ? changes.unit[b] * std::exp(step) : 0.0;
    double shares = 0.0;
    for (int64_t t = 0; t < problem.threads; ++t) shares += factors[t] * memories[t].shares[b];
    add_sums(problem, shape, memories, b, factors, total);
    for (int64_t d = 0; d < shape.dim; ++d) total[d] = scale * (total[d] - shares * (mean[d] - problem.centre[d]));
}

}  // namespace oracle

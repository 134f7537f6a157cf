// Posterior states of named samples: logits in float64 and beyond, and the sums that they weigh.
#include <new>
#include <vector>

#include "core/queries.hpp"
#include "rescore/weigh.hpp"
#include "rescore/weighted.hpp"
#include "threads/share_out.hpp"

namespace oracle {
namespace {

// values of a mean that a thread sums at a time: they stay in the nearest cache
constexpr int64_t kSlice = 1024;

// Lists with the logits high + low and the weights of their pairs, [P].
struct Scored {
    const ListsView& lists;
    double *high, *low, *weight;

    int64_t start(int64_t query) const { return lists.first[query]; }
    int64_t stop(int64_t query) const { return lists.first[query + 1]; }

    // The largest logit of a list, by both parts: where logits are large the low ones are many nats.
    Twice<double> best(int64_t query) const {
        Twice<double> found = {kNothing, 0.0};
        for (int64_t k = start(query); k < stop(query); ++k)
            if (high[k] > kNothing && (found.high == kNothing || above(k, found) > 0.0)) found = {high[k], low[k]};
        return found;
    }

    // How far the logit of a pair is above another.
    double above(int64_t k, Twice<double> other) const { return (high[k] - other.high) + (low[k] - other.low); }
};

void name_heaviest(const Scored& scored, int64_t query, const StatesView& out) {
    Heaviest named(out, query);
    for (int64_t k = scored.start(query); k < scored.stop(query); ++k)
        named.offer(scored.high[k], scored.low[k], scored.lists.row[k]);
}

// Weights that sum to one, the log of what they summed to, and the moments that are made of weights alone.
void weigh_list(const Scored& scored, int64_t query, const StatesView& out) {
    const int64_t start = scored.start(query), stop = scored.stop(query);
    const Twice<double> best = scored.best(query);
    if (best.high == kNothing) {
        std::fill(scored.weight + start, scored.weight + stop, 0.0);
        return;
    }
    double mass = 0.0, squares = 0.0, entropy = 0.0;
    for (int64_t k = start; k < stop; ++k) {
        scored.weight[k] = std::exp(scored.above(k, best));
        mass += scored.weight[k];
    }
    const Twice<double> lse = two_sum(best.high, best.low + std::log(mass));
    out.lse[query] = lse.high;
    out.lse_rest[query] = lse.low;
    for (int64_t k = start; k < stop; ++k) {
        const double weight = scored.weight[k] /= mass;
        squares += weight * weight;
        if (out.entropy != nullptr && weight > 0.0) entropy -= weight * std::log(weight);
    }
    if (out.entropy == nullptr) return;
    out.concentration[query] = squares;
    out.entropy[query] = entropy;
}

// sum += sum_j gamma_j r_j of a query over the values [at, at + count).
template <class T>
void add_list(const RowsView& rows, const Scored& scored, int64_t query, int64_t at, int64_t count, double* sum) {
    WeightedSum<T> total(rows.centre + at, sum, count);
    for (int64_t k = scored.start(query); k < scored.stop(query); ++k)
        if (scored.weight[k] >= kNoShare) total.add(row_of<T>(rows, scored.lists.row[k]) + at, scored.weight[k]);
    total.finish();
}

// Slices of means are shared out: few queries keep all threads busy, and sums do not depend on how many there are.
template <class T>
void take_means(const RowsView& rows, const Scored& scored, int64_t batch, double* mean) {
    const int64_t slices = (rows.dim + kSlice - 1) / kSlice;
    share_out_many(scored.lists.hands(batch, rows.dim), batch * slices, [&](int64_t task) {
        const int64_t query = task / slices, at = task % slices * kSlice;
        const int64_t count = std::min(kSlice, rows.dim - at);
        add_list<T>(rows, scored, query, at, count, mean + query * rows.dim + at);
    });
}

// tr Cov from squared distances to the means; uses up the low parts of logits.
template <class T>
void take_variances(const RowsView& rows, const Scored& scored, int64_t batch, const StatesView& out) {
    std::vector<double> middle(out.mean, out.mean + batch * rows.dim);
    for (int64_t query = 0; query < batch; ++query)
        for (int64_t d = 0; d < rows.dim; ++d) middle[query * rows.dim + d] += rows.centre[d];
    all_distances<T>(rows, scored.lists, batch, middle.data(), nullptr, scored.low);
    for (int64_t query = 0; query < batch; ++query)
        for (int64_t k = scored.start(query); k < scored.stop(query); ++k)
            if (scored.weight[k] > 0.0) out.variance[query] += scored.weight[k] * scored.low[k];
}

template <class T>
void take_states(const RowsView& rows, const QueriesView& queries, const Digits& digits, const Scored& scored,
                 const StatesView& out) {
    const int64_t batch = queries.count;
    all_logits<T>(rows, queries, digits, scored.lists, scored.high, scored.low);
    share_out_many(scored.lists.hands(batch, rows.dim), batch, [&](int64_t query) {
        name_heaviest(scored, query, out);
        weigh_list(scored, query, out);
    });
    if (out.mean == nullptr) return;
    take_means<T>(rows, scored, batch, out.mean);
    if (out.variance != nullptr) take_variances<T>(rows, scored, batch, out);
}

}  // namespace

void score_lists(const RowsView& rows, const QueriesView& queries, const Digits& digits, const ListsView& lists,
                 double* high, double* low) {
    with_storage(rows.storage, [&](auto* type) {
        all_logits<std::remove_pointer_t<decltype(type)>>(rows, queries, digits, lists, high, low);
    });
}

void weigh_lists(const RowsView& rows, const QueriesView& queries, const Digits& digits, const ListsView& lists,
                 const StatesView& out) {
    const int64_t pairs = lists.first[queries.count];
    std::vector<double> room(3 * pairs);
    const Scored scored = {lists, room.data(), room.data() + pairs, room.data() + 2 * pairs};
    with_storage(rows.storage, [&](auto* type) {
        take_states<std::remove_pointer_t<decltype(type)>>(rows, queries, digits, scored, out);
    });
}

}  // namespace oracle

using namespace oracle;

// The states of lists in `out`, which holds those of no sample before. Returns 0, or 1 where memory is short.
ORACLE_EXPORT int oracle_weigh_pairs(const RowsView* rows, const AskedQueries* asked, const Digits* digits,
                                     const ListsView* pairs, const StatesView* out) {
    try {
        Queries queries(*rows, *asked);
        const ListsView lists = {pairs->first, pairs->row, usable_threads(pairs->threads)};
        weigh_lists(*rows, queries.in_stored_coordinates(), *digits, lists, *out);
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}

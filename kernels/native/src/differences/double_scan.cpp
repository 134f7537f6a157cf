// The scan in float64 from differences: one pass, one softmax, logits in twice the digits where gaps ask for it.
#include "differences/block_logits.hpp"
#include "rescore/weighted.hpp"

namespace oracle {
namespace {

// weights may exceed one by e^20 before sums are rescaled
constexpr double kSlack = 20.0;

// What one query has met: weights are exp(l - origin).
struct Running {
    double best = kNothing;
    // in twice the digits: where logits are large the low part is many nats
    Twice<double> origin = {kNothing, 0.0};
    double mass = 0.0, squares = 0.0, first = 0.0, half_norms = 0.0, distances = 0.0;

    // How far another logit is above the origin.
    double above(Twice<double> to) const { return (to.high - origin.high) + (to.low - origin.low); }

    void rescale(Twice<double> to, double* mean, int64_t dim) {
        // origins are -inf before the first block
        const double step = mass > 0.0 ? -above(to) : 0.0, factor = std::exp(step);
        if (mean != nullptr && factor < 1.0)
            for (int64_t d = 0; d < dim; ++d) mean[d] *= factor;
        first = factor * (first + step * mass);
        squares *= factor * factor;
        for (double* sum : {&mass, &half_norms, &distances}) *sum *= factor;
        origin = to;
    }
};

// How a query takes in a block; its state is at `slot` of those that shares of the rows have.
template <class T>
struct OneQuery {
    const Question& question;
    const StatesView& out;
    BlockLogits<T>& block;
    int64_t query, slot;

    void name(Heaviest& heaviest) {
        for (int64_t i = 0; i < block.count; ++i)
            if (block.logit[i] >= heaviest.least()) heaviest.offer(block.logit[i], block.low[i], block.start + i);
    }

    // weights of the block in block.logit, and their sums
    void weigh(Running& sums, const double* distance) {
        Wide mass = {}, squares = {}, first = {}, half_norms = {}, distances = {};
        const double* norms = question.rows.half_norms + block.start;
        for (int64_t i = 0; i < block.width; i += kLanes) {
            const Wide step = (wide(&block.logit[i]) - sums.origin.high) + (wide(&block.low[i]) - sums.origin.low);
            const Wide weight = exponential(step);
            const int64_t left = std::max<int64_t>(block.count - i, 0);
            const Wide norm = left >= kLanes ? wide(norms + i) : wide_some(norms + i, left);
            store(&block.logit[i], weight);
            mass += weight;
            squares += weight * weight;
            // of no weight the logarithm is infinite
            first += select<double>(weight > 0.0, weight * step, Wide{});
            half_norms += weight * norm;
            distances += weight * wide(distance + i);
        }
        sums.mass += lane_sum(mass);
        sums.squares += lane_sum(squares);
        sums.first += lane_sum(first);
        sums.half_norms += lane_sum(half_norms);
        sums.distances += lane_sum(distances);
    }

    void add_mean(const Running& sums, double* mean) {
        const int64_t dim = question.rows.dim;
        if (dim < kNarrow) return add_block(block.block(), block.logit.data(), question.rows.centre, mean);
        WeightedSum<T> total(question.rows.centre, mean, dim);
        for (int64_t i = 0; i < block.count; ++i)
            if (block.logit[i] >= kNoShare * sums.mass)
                total.add(row_of<T>(question.rows, block.start + i), block.logit[i]);
        total.finish();
    }

    void take_in(Running& sums, int64_t q) {
        const double largest = block.score(query, q), best = std::max(sums.best, largest);
        Heaviest heaviest(out, slot);
        const bool weighs = block.weighs(query, largest, best);
        if (largest == kNothing || (!weighs && largest < heaviest.least())) return;
        const Twice<double> top = block.refine(query, best) ? block.largest() : Twice<double>{largest, 0.0};
        name(heaviest);
        if (!weighs) return;
        sums.best = best;
        double* mean = out.mean == nullptr ? nullptr : out.mean + slot * question.rows.dim;
        if (!(sums.above(top) <= kSlack)) sums.rescale(top, mean, question.rows.dim);
        weigh(sums, block.distance.data() + q * block.width);
        if (mean != nullptr) add_mean(sums, mean);
    }
};

// Turns sums into the state at `slot`.
void finish(const Question& question, const StatesView& out, int64_t query, int64_t slot, const Running& sums) {
    const int64_t dim = question.rows.dim;
    if (!(sums.mass > 0.0)) return;
    const Twice<double> lse = two_sum(sums.origin.high, sums.origin.low + std::log(sums.mass));
    out.lse[slot] = lse.high;
    out.lse_rest[slot] = lse.low;
    if (out.concentration != nullptr) {
        out.concentration[slot] = sums.squares / sums.mass / sums.mass;
        out.entropy[slot] = std::max(0.0, std::log(sums.mass) - sums.first / sums.mass);
    }
    if (out.mean == nullptr) return;
    const double* x = question.queries.stored_point + query * dim;
    const double alpha = question.queries.alpha[query];
    double* mean = out.mean + slot * dim;
    double from_centre = 0.0, from_query = 0.0;
    for (int64_t d = 0; d < dim; ++d) {
        mean[d] /= sums.mass;
        const double difference = x[d] - alpha * (mean[d] + question.rows.centre[d]);
        from_query += difference * difference;
        from_centre += mean[d] * mean[d];
    }
    if (out.variance == nullptr) return;
    // about the centre, or about the point that the query is the image of: what is smaller loses fewer digits
    const double square = 2.0 * sums.half_norms / sums.mass, distance = sums.distances / sums.mass;
    const bool near = distance < square * alpha * alpha;
    const double variance = near ? (distance - from_query) / (alpha * alpha) : square - from_centre;
    out.variance[slot] = std::max(0.0, variance);
}

// Scans rows [start, stop) for the queries [first, last): each block for all of them while it is in cache.
template <class T>
void scan_share(const Question& question, const StatesView& out, int64_t share, int64_t start, int64_t stop,
                int64_t first, int64_t last) {
    BlockLogits<T> block(question, last - first);
    std::vector<Running> sums(last - first);
    const int64_t slots = share * question.queries.count;
    for (int64_t at = start; at < stop; at += block.width) {
        block.read(at, stop);
        for (int64_t query = first; query < last; query += kTileQueries) {
            const int64_t some = std::min<int64_t>(kTileQueries, last - query);
            block.measure(query, some);
            for (int64_t q = 0; q < some; ++q)
                OneQuery<T>{question, out, block, query + q, slots + query + q}.take_in(sums[query + q - first], q);
        }
    }
    for (int64_t query = first; query < last; ++query) finish(question, out, query, slots + query, sums[query - first]);
}

}  // namespace
}  // namespace oracle

using namespace oracle;

// The states of a span in `out`, [shares, B], which holds those of no sample before, means zero. Returns 0, or 1 where
// memory is short.
ORACLE_EXPORT int oracle_scan_double(const RowsView* rows, const AskedQueries* queries, const Digits* digits,
                                     const ScanView* asked, const StatesView* out) {
    return with_question(*rows, *queries, *digits, *asked, [&](const Question& question) {
        with_storage(rows->storage, [&](auto* type) {
            using T = std::remove_pointer_t<decltype(type)>;
            shared_out(question, [&](int64_t share, int64_t start, int64_t stop, int64_t first, int64_t last) {
                scan_share<T>(question, *out, share, start, stop, first, last);
            });
        });
        return 0;
    });
}

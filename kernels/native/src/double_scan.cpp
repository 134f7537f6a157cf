// The scan in float64 from differences: one pass, one softmax, logits in twice the digits where gaps ask for it.
#include <new>
#include <vector>

#include "packed.hpp"
#include "states.hpp"
#include "threads.hpp"
#include "weighted.hpp"

namespace oracle {
namespace {

// a block of rows in float64, in bytes: it stays in the second cache
constexpr int64_t kBlockBytes = 384 << 10;

// rows of a block at most: their logits stay in the first cache
constexpr int64_t kMostRows = 512;

// width from which on weighted sums are taken from the rows as they are stored, a vector of values at a time
constexpr int64_t kWide = 64;

// weights may exceed one by e^20 before sums are rescaled
constexpr double kSlack = 20.0;

struct ScanView {
    int64_t start, stop;        // of the span of rows
    const double* half_norms;   // [N], |r|^2 / 2 without the centre
    const int64_t* excluded;    // [B, ranges, 2]
    int64_t ranges;             // of a query
    double window;              // how far below the log-partition a row has no weight, but for rounding
    int64_t shares;             // parts of the span, each with states of its own
    int64_t threads;
};

struct Problem {
    const RowsView& rows;
    const QueriesView& queries;
    const Digits& digits;
    const ScanView& scan;
    const StatesView& out;  // [shares, B]
};

// What one query has met: weights are exp(l - origin).
struct Running {
    double best = kNothing, origin = kNothing;
    double mass = 0.0, squares = 0.0, first = 0.0, half_norms = 0.0, distances = 0.0;

    void rescale(double to, double* mean, int64_t dim) {
        // origins are -inf before the first block
        const double step = mass > 0.0 ? origin - to : 0.0, factor = std::exp(step);
        if (mean != nullptr && factor < 1.0)
            for (int64_t d = 0; d < dim; ++d)
                mean[d] *= factor;
        first = factor * (first + step * mass);
        squares *= factor * factor;
        for (double* sum : {&mass, &half_norms, &distances})
            *sum *= factor;
        origin = to;
    }
};

// Room for a block and for what a query makes of it.
struct Workspace {
    int64_t width;
    std::vector<double> packed, distance, logit, low;

    explicit Workspace(int64_t dim)
        : width(std::clamp<int64_t>(kBlockBytes / (8 * dim) / kTileRows * kTileRows, kTileRows, kMostRows)),
          packed(width * dim),
          distance(kTileQueries * width),
          logit(width),
          low(width) {}
};

// One query of a task: how it takes in a block of rows [start, start + count).
template <class T>
struct OneQuery {
    const Problem& problem;
    Workspace& room;
    int64_t query, slot;
    int64_t start, count;
    const double* distance;

    // logits of the block in room.logit, -inf where a row does not count; returns their maximum
    double score() {
        const RowsView& rows = problem.rows;
        const double factor = -0.5 * problem.queries.inverse_variance[query];
        for (int64_t i = 0; i < count; ++i)
            room.logit[i] = factor * distance[i];
        if (rows.log_weights != nullptr)
            for (int64_t i = 0; i < count; ++i)
                room.logit[i] += rows.log_weights[start + i];
        std::fill(room.logit.begin() + count, room.logit.end(), kNothing);
        const int64_t* range = problem.scan.excluded + 2 * query * problem.scan.ranges;
        for (int64_t r = 0; r < problem.scan.ranges; ++r, range += 2)
            for (int64_t row = std::max(range[0], start); row < std::min(range[1], start + count); ++row)
                room.logit[row - start] = kNothing;
        return *std::max_element(room.logit.begin(), room.logit.begin() + count);
    }

    // takes logits again where the gaps between them ask for twice the digits
    void refine(double best) {
        const double error = difference_error(problem.queries, problem.digits, query, best);
        std::fill(room.low.begin(), room.low.end(), 0.0);
        if (error <= problem.digits.gap_limit)
            return;
        const double floor = best - (problem.digits.window + 2.0 * error);
        for (int64_t i = 0; i < count; ++i) {
            if (room.logit[i] < floor)
                continue;
            const Twice<double> logit = exact_logit<T>(problem.rows, problem.queries, query, start + i);
            room.logit[i] = logit.high;
            room.low[i] = logit.low;
        }
    }

    void name(Heaviest& heaviest) {
        for (int64_t i = 0; i < count; ++i)
            if (room.logit[i] >= heaviest.least())
                heaviest.offer(room.logit[i], room.low[i], start + i);
    }

    // weights of the block in room.logit, and their sums
    void weigh(Running& sums) {
        Wide mass = {}, squares = {}, first = {}, half_norms = {}, distances = {};
        const double* norms = problem.scan.half_norms + start;
        for (int64_t i = 0; i < room.width; i += kLanes) {
            const Wide step = (wide(&room.logit[i]) - sums.origin) + wide(&room.low[i]);
            const Wide weight = exponential(step);
            const int64_t left = std::max<int64_t>(count - i, 0);
            const Wide norm = left >= kLanes ? wide(norms + i) : wide_some(norms + i, left);
            store(&room.logit[i], weight);
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
        const int64_t dim = problem.rows.dim;
        if (dim < kWide)
            return add_block({room.packed.data(), room.width, dim}, room.logit.data(), mean);
        WeightedSum<T> total(mean, dim);
        for (int64_t i = 0; i < count; ++i)
            if (room.logit[i] >= kNoShare * sums.mass)
                total.add(row_of<T>(problem.rows, start + i), room.logit[i]);
        total.finish();
    }

    void take_in(Running& sums) {
        const double largest = score();
        Heaviest heaviest(problem.out, slot);
        const double best = std::max(sums.best, largest);
        if (largest == kNothing)
            return;
        const bool weighs = largest >= best - problem.scan.window -
                                           2.0 * difference_error(problem.queries, problem.digits, query, best);
        if (!weighs && largest < heaviest.least())
            return;
        refine(best);
        name(heaviest);
        if (!weighs)
            return;
        sums.best = best;
        double* mean = problem.out.mean == nullptr ? nullptr : problem.out.mean + slot * problem.rows.dim;
        if (best > sums.origin + kSlack)
            sums.rescale(best, mean, problem.rows.dim);
        weigh(sums);
        if (mean != nullptr)
            add_mean(sums, mean);
    }
};

// Turns sums into the state at `slot`.
void finish(const Problem& problem, int64_t query, int64_t slot, const Running& sums) {
    const StatesView& out = problem.out;
    const int64_t dim = problem.rows.dim;
    if (!(sums.mass > 0.0))
        return;
    const Twice<double> lse = two_sum(sums.origin, std::log(sums.mass));
    out.lse[slot] = lse.high;
    out.lse_rest[slot] = lse.low;
    if (out.concentration != nullptr) {
        out.concentration[slot] = sums.squares / sums.mass / sums.mass;
        out.entropy[slot] = std::max(0.0, std::log(sums.mass) - sums.first / sums.mass);
    }
    if (out.mean == nullptr)
        return;
    const double* x = problem.queries.stored_point + query * dim;
    const double alpha = problem.queries.alpha[query];
    double* mean = out.mean + slot * dim;
    double from_centre = 0.0, from_query = 0.0;
    for (int64_t d = 0; d < dim; ++d) {
        const double value = mean[d] / sums.mass, difference = x[d] - alpha * value;
        from_query += difference * difference;
        mean[d] = value - problem.rows.centre[d];
        from_centre += mean[d] * mean[d];
    }
    if (out.variance == nullptr)
        return;
    // about the centre, or about the point that the query is the image of: what is smaller loses fewer digits
    const double square = 2.0 * sums.half_norms / sums.mass, distance = sums.distances / sums.mass;
    const bool near = distance < square * alpha * alpha;
    const double variance = near ? (distance - from_query) / (alpha * alpha) : square - from_centre;
    out.variance[slot] = std::max(0.0, variance);
}

// Scans rows [start, stop) for the queries [first, last): each block for all of them while it is in cache.
template <class T>
void scan_share(const Problem& problem, int64_t share, int64_t start, int64_t stop, int64_t first, int64_t last) {
    const int64_t dim = problem.rows.dim, batch = problem.queries.count;
    Workspace room(dim);
    std::vector<Running> sums(last - first);
    for (int64_t at = start; at < stop; at += room.width) {
        const int64_t count = std::min(room.width, stop - at);
        pack<T>(problem.rows, at, count, room.width, room.packed.data());
        const Packed block = {room.packed.data(), room.width, dim};
        for (int64_t query = first; query < last; query += kTileQueries) {
            const int64_t some = std::min<int64_t>(kTileQueries, last - query);
            const double* x[kTileQueries];
            for (int64_t q = 0; q < some; ++q)
                x[q] = problem.queries.stored_point + (query + q) * dim;
            const double* alpha = problem.queries.alpha + query;
            if (some == kTileQueries)
                packed_distances<kTileQueries>(block, x, alpha, room.distance.data());
            else
                for (int64_t q = 0; q < some; ++q)
                    packed_distances<1>(block, x + q, alpha + q, room.distance.data() + q * room.width);
            for (int64_t q = 0; q < some; ++q) {
                const double* distance = room.distance.data() + q * room.width;
                OneQuery<T> one = {problem, room, query + q, share * batch + query + q, at, count, distance};
                one.take_in(sums[query + q - first]);
            }
        }
    }
    for (int64_t query = first; query < last; ++query)
        finish(problem, query, share * batch + query, sums[query - first]);
}

// Shares of the rows and groups of queries, one thread each.
template <class T>
int scan_all(const Problem& problem) {
    const int64_t shares = problem.scan.shares, batch = problem.queries.count;
    const int64_t groups = std::max<int64_t>(1, std::min(problem.scan.threads / shares, batch));
    const int64_t rows = problem.scan.stop - problem.scan.start;
    const bool parallel = rows * batch * problem.rows.dim > 1 << 16;
    int short_of_memory = 0;
#pragma omp parallel for num_threads(problem.scan.threads) schedule(static) if (parallel) reduction(| : short_of_memory)
    for (int64_t task = 0; task < shares * groups; ++task) {
        const int64_t share = task / groups, group = task % groups;
        try {
            scan_share<T>(problem, share, problem.scan.start + rows * share / shares,
                          problem.scan.start + rows * (share + 1) / shares, batch * group / groups,
                          batch * (group + 1) / groups);
        } catch (const std::bad_alloc&) {
            short_of_memory |= 1;
        }
    }
    return short_of_memory;
}

}  // namespace
}  // namespace oracle

using namespace oracle;

// The states of a span in `out`, [shares, B], which holds those of no sample before, means zero. Returns 0, or 1 where
// memory is short.
ORACLE_EXPORT int oracle_scan_double(const RowsView* rows, const QueriesView* queries, const Digits* digits,
                                     const ScanView* asked, const StatesView* out) {
    ScanView scan = *asked;
    scan.threads = usable_threads(scan.threads);
    const Problem problem = {*rows, *queries, *digits, scan, *out};
    int failed = 0;
    with_storage(rows->storage,
                 [&](auto* type) { failed = scan_all<std::remove_pointer_t<decltype(type)>>(problem); });
    return failed;
}

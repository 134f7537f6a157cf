// What preparation needs to know of rows, in one pass: norms, projections, their sum and the ends of their values.
#include <algorithm>

#include "core/doubles.hpp"
#include "core/problem.hpp"
#include "threads/share_out.hpp"

namespace oracle {
namespace {

// directions that rows are projected on, as in kernels/common/copies.py
constexpr int kDirections = 4;

struct MeasuresView {
    const double* directions;  // [kDirections, D]
    double* half_norms;        // [n]
    double* projected;         // [n, kDirections]
    double* total;             // [threads, D], zero before
    double* ends;              // [threads, 3]: largest squared norm as stored, smallest and largest value
};

// Sums over the coordinates of one row.
struct OneRow {
    Wide square = {}, norm = {}, along[kDirections] = {};
};

// The ends of the values met.
struct Ends {
    Wide low, high;
};

// Takes in the next values of a row, of which those beyond the last are zero, less the centre.
ORACLE_INLINE void take_in(Wide value, Wide rest, const Wide* directions, OneRow& sums) {
    sums.square = fused(value, value, sums.square);
    sums.norm = fused(rest, rest, sums.norm);
    for (int k = 0; k < kDirections; ++k) sums.along[k] = fused(rest, directions[k], sums.along[k]);
}

ORACLE_INLINE void meet(Wide value, Ends& ends) {
    ends.low = select<double>(value < ends.low, value, ends.low);
    ends.high = select<double>(value > ends.high, value, ends.high);
}

// kLanes coordinates of `Count` rows from `d` on, or the `left` last ones.
template <class T, int Count>
struct Step {
    const RowsView& rows;
    const MeasuresView& out;
    int64_t row;
    double* total;

    template <class V>
    ORACLE_MEMBER Wide next(const V* at, int64_t left) const {
        return left >= kLanes ? wide(at) : wide_some(at, left);
    }

    ORACLE_MEMBER void take(int64_t d, int64_t left, OneRow* sums, Ends& ends) const {
        const Wide centre = next(rows.centre + d, left);
        Wide directions[kDirections], added = next(total + d, left);
        for (int k = 0; k < kDirections; ++k) directions[k] = next(out.directions + k * rows.dim + d, left);
        for (int i = 0; i < Count; ++i) {
            Wide value = next(row_of<T>(rows, row + i) + d, left);
            const Wide rest = value - centre;
            take_in(value, rest, directions, sums[i]);
            added += rest;
            for (int64_t lane = left; lane < kLanes; ++lane) value[lane] = value[0];
            meet(value, ends);
        }
        if (left >= kLanes) return store(total + d, added);
        store_some(total + d, added, left);
    }
};

// Measures `Count` rows side by side, so that centre, directions and total are read once for them.
template <class T, int Count>
ORACLE_APART void measure_rows(const RowsView& rows, const MeasuresView& out, int64_t row, double* total, Ends& ends,
                               double& largest) {
    const Step<T, Count> step = {rows, out, row, total};
    const int64_t whole = rows.dim / kLanes * kLanes;
    OneRow sums[Count];
    Ends met = ends;
    // a constant as the number of lanes: nothing is asked in the loop
    for (int64_t d = 0; d < whole; d += kLanes) step.take(d, kLanes, sums, met);
    if (whole < rows.dim) step.take(whole, rows.dim - whole, sums, met);
    ends = met;
    for (int i = 0; i < Count; ++i) {
        largest = std::max(largest, lane_sum(sums[i].square));
        out.half_norms[row + i] = 0.5 * lane_sum(sums[i].norm);
        for (int k = 0; k < kDirections; ++k) out.projected[(row + i) * kDirections + k] = lane_sum(sums[i].along[k]);
    }
}

template <class T>
void measure_share(const RowsView& rows, const MeasuresView& out, int64_t start, int64_t stop, int64_t thread) {
    double* total = out.total + thread * rows.dim;
    double* found = out.ends + 3 * thread;
    Ends ends = {broadcast(found[1]), broadcast(found[2])};
    int64_t row = start;
    for (; row + 2 <= stop; row += 2) measure_rows<T, 2>(rows, out, row, total, ends, found[0]);
    for (; row < stop; ++row) measure_rows<T, 1>(rows, out, row, total, ends, found[0]);
    for (int lane = 0; lane < kLanes; ++lane) {
        found[1] = std::min(found[1], ends.low[lane]);
        found[2] = std::max(found[2], ends.high[lane]);
    }
}

}  // namespace
}  // namespace oracle

using namespace oracle;

// Measures `count` rows, in `shares` parts of the same length, each with a total and ends of its own. Returns 0.
ORACLE_EXPORT int oracle_measure(const RowsView* rows, const MeasuresView* out, int64_t count, int64_t shares,
                                 int64_t threads) {
    const int most = usable_threads(threads);
    with_storage(rows->storage, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        share_out(most, shares, [&](int64_t share) {
            measure_share<T>(*rows, *out, share * count / shares, (share + 1) * count / shares, share);
        });
    });
    return 0;
}

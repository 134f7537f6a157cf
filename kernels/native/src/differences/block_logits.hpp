// Float64 logits of a block of rows from differences, for a few queries at a time, in twice the digits where asked.
#pragma once
#include <algorithm>
#include <new>
#include <vector>

#include "core/queries.hpp"
#include "differences/packed.hpp"
#include "rescore/states.hpp"
#include "threads/share_out.hpp"

namespace oracle {

// a block of rows in float64, in bytes: it stays in the second cache
constexpr int64_t kBlockBytes = 384 << 10;

// rows of a block at most: their logits stay in the first cache, and values d and d + 1 of a row in different sets of
// it
constexpr int64_t kMostRows = 496;

// width below which blocks are always packed: rows as they are stored would leave lanes empty
constexpr int64_t kNarrow = 64;

// what a value of a difference takes, in operations
constexpr double kDifference = 16.0;

// The part of the rows that a call scans, and how it is shared out.
struct ScanView {
    int64_t start, stop;      // of the span of rows
    const int64_t* excluded;  // [B, ranges, 2]
    int64_t ranges;           // of a query
    double window;            // how far below the log-partition a row has no weight, but for rounding
    int64_t shares;           // parts of the span, each with sums of its own
    int64_t threads;
};

struct Question {
    const RowsView& rows;
    const QueriesView& queries;
    const Digits& digits;
    const ScanView& scan;
};

// Calls work(question) with what the host asks. Returns what it returns, 1 where memory was short.
template <class Work>
int with_question(const RowsView& rows, const AskedQueries& asked, const Digits& digits, ScanView scan,
                  const Work& work) {
    scan.threads = usable_threads(scan.threads);
    try {
        Queries queries(rows, asked);
        const QueriesView stored = queries.in_stored_coordinates();
        return work(Question{rows, stored, digits, scan});
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

// out[i] = |x - alpha r_i|^2 of the rows [start, start + count), read as they are stored.
template <class T>
void stored_distances(const RowsView& rows, int64_t start, int64_t count, const double* x, double alpha, double* out) {
    int64_t i = 0;
    for (; i + kAbreast <= count; i += kAbreast) {
        const T* row[kAbreast];
        for (int r = 0; r < kAbreast; ++r) row[r] = row_of<T>(rows, start + i + r);
        squared_distances<T, kAbreast>(x, alpha, row, rows.dim, out + i);
    }
    for (; i < count; ++i) {
        const T* row = row_of<T>(rows, start + i);
        squared_distances<T, 1>(x, alpha, &row, rows.dim, out + i);
    }
}

// A block of rows [start, start + count) and the logits that queries have with it.
template <class T>
class BlockLogits {
  public:
    int64_t width, start = 0, count = 0;
    std::vector<double> packed, distance, logit, low;

    // queries: how many share the block; fewer than a tile do not pay for packing it
    BlockLogits(const Question& question, int64_t queries)
        : width(
              std::clamp<int64_t>(kBlockBytes / (8 * question.rows.dim) / kTileRows * kTileRows, kTileRows, kMostRows)),
          packed(queries >= kTileQueries || question.rows.dim < kNarrow ? width * question.rows.dim : 0),
          distance(kTileQueries * width),
          logit(width),
          low(width),
          question_(question) {}

    Packed block() const { return {packed.data(), width, question_.rows.dim}; }

    void read(int64_t from, int64_t stop) {
        start = from;
        count = std::min(width, stop - from);
        if (!packed.empty()) pack<T>(question_.rows, start, count, width, packed.data());
    }

    // distances of the queries [query, query + some) with all rows, some <= kTileQueries
    void measure(int64_t query, int64_t some) {
        const RowsView& rows = question_.rows;
        const double* alpha = question_.queries.alpha + query;
        const double* x[kTileQueries];
        for (int64_t q = 0; q < some; ++q) x[q] = question_.queries.stored_point + (query + q) * rows.dim;
        if (some == kTileQueries) return packed_distances<kTileQueries>(block(), x, alpha, distance.data());
        for (int64_t q = 0; q < some; ++q) {
            double* out = distance.data() + q * width;
            if (packed.empty())
                stored_distances<T>(rows, start, count, x[q], alpha[q], out);
            else
                packed_distances<1>(block(), x + q, alpha + q, out);
        }
    }

    // logits of one of the queries measured, -inf where a row does not count; returns their maximum
    double score(int64_t query, int64_t q) {
        const RowsView& rows = question_.rows;
        const double factor = -0.5 * question_.queries.inverse_variance[query];
        for (int64_t i = 0; i < count; ++i) logit[i] = factor * distance[q * width + i];
        if (rows.log_weights != nullptr)
            for (int64_t i = 0; i < count; ++i) logit[i] += rows.log_weights[start + i];
        std::fill(logit.begin() + count, logit.end(), kNothing);
        const int64_t* range = question_.scan.excluded + 2 * query * question_.scan.ranges;
        for (int64_t r = 0; r < question_.scan.ranges; ++r, range += 2)
            for (int64_t row = std::max(range[0], start); row < std::min(range[1], start + count); ++row)
                logit[row - start] = kNothing;
        return *std::max_element(logit.begin(), logit.begin() + count);
    }

    // takes logits near `best` again where the gaps between them ask for twice the digits; returns whether they do
    bool refine(int64_t query, double best) {
        const double error = difference_error(question_.queries, question_.digits, query, best);
        std::fill(low.begin(), low.end(), 0.0);
        if (error <= question_.digits.gap_limit) return false;
        const double floor = best - (question_.digits.window + 2.0 * error);
        for (int64_t i = 0; i < count; ++i) {
            if (logit[i] < floor) continue;
            const Twice<double> exact = exact_logit<T>(question_.rows, question_.queries, query, start + i);
            logit[i] = exact.high;
            low[i] = exact.low;
        }
        return true;
    }

    // the largest logit of the block, by both parts
    Twice<double> largest() const {
        int64_t best = 0;
        for (int64_t i = 1; i < count; ++i)
            if ((logit[i] - logit[best]) + (low[i] - low[best]) > 0.0) best = i;
        return {logit[best], low[best]};
    }

    // whether a row with the logit `largest` has weight beside one with the logit `best`
    bool weighs(int64_t query, double largest, double best) const {
        const double error = difference_error(question_.queries, question_.digits, query, best);
        return largest > kNothing && largest >= best - question_.scan.window - 2.0 * error;
    }

  private:
    const Question& question_;
};

// Shares of the rows and groups of queries, a thread each: work(share, start, stop, first, last) for rows
// [start, stop) and queries [first, last). Throws bad_alloc where one of them did.
template <class Work>
void shared_out(const Question& question, const Work& work) {
    const ScanView& scan = question.scan;
    const int64_t batch = question.queries.count, rows = scan.stop - scan.start;
    const int64_t groups = std::max<int64_t>(1, std::min(scan.threads / scan.shares, batch));
    const double operations = kDifference * rows * batch * question.rows.dim;
    share_out(worth(scan.threads, operations), scan.shares * groups, [&](int64_t task) {
        const int64_t share = task / groups, group = task % groups;
        work(share, scan.start + rows * share / scan.shares, scan.start + rows * (share + 1) / scan.shares,
             batch * group / groups, batch * (group + 1) / groups);
    });
}

}  // namespace oracle

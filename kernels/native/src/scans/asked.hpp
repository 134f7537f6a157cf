// What the host asks of a scan, and what becomes of it before rows are read.
#pragma once
#include <vector>

#include "core/queries.hpp"
#include "products/law.hpp"
#include "products/scan.hpp"
#include "rescore/states.hpp"

namespace oracle {

// As scan.py lays it out.
struct ScanAsked {
    const RowsView* rows;
    const Rounding* rounding;
    const Digits* digits;  // of what is scored again
    AskedQueries queries;
    int64_t start, stop, count;  // the span, and how many rows a query may use at most
    const int64_t* excluded;     // [B, ranges, 2]
    // block: rows of a block; whole_block: at most where all of them are multiplied with whole queries
    int64_t ranges, threads, listed, margin, block, whole_block, few;
    StatesView out;     // zeros, apart from what is here written in any case
    int64_t overflows;  // how many queries list too many rows: of these out.lse_rest becomes NaN
    int64_t closed;     // pairs of a row and a query that leading digits told to have no weight
    int64_t weighed;    // pairs of a row and a query whose weights were digits
    void* begun;        // the scan between two calls
    const double* lse;  // [B], log-partitions of which the rows are a part, where they are known before, or null
    const DirectionsView* directions;  // what weights are multiplied with, for queries that are not few, or null
};

// Rows of a block for each query, by long vectors. The sums of all queries pass the cache once a block: with fewer rows
// they take longer than these, and with more the rows of the next block do not find room (measured).
constexpr double kRowsOfQuery = 1.5;

// Rows of a block that are all multiplied with whole queries: as many as there may be by short vectors, whose products
// leave the most time to fetch them, and by matrix units.
inline int64_t rows_of_whole_block(const ScanAsked& asked, int64_t batch) {
    if (kVectorBytes < 64 || asked.whole_block == asked.block) return asked.whole_block;
    const int64_t wanted = static_cast<int64_t>(kRowsOfQuery * batch) / Tile<float>::rows * Tile<float>::rows;
    return std::min(std::max(wanted, asked.block), asked.whole_block);
}

// A problem and all that it points to, apart from the memory of threads.
class Problem {
  public:
    Queries queries;

    // tops: how many lists of heaviest rows a query gets
    Problem(const ScanAsked& asked, int64_t tops)
        : queries(*asked.rows, asked.queries),
          gain_(asked.queries.count),
          bias_(asked.queries.count),
          sums_(6 * asked.queries.count),
          law_(asked.queries.count),
          known_(asked.lse ? asked.queries.count : 0),
          kept_(asked.queries.count),
          changes_(asked.directions, *asked.rows, asked.queries.count) {
        problem_.scan = scan_law(*asked.rounding, *asked.rows, asked.count);
        for (int64_t b = 0; b < asked.queries.count; ++b) describe(asked, b);
        point_to_rows(*asked.rows);
        point_to_queries(asked);
        point_to_sums(asked, tops);
        problem_.wide = asked.rounding->wide;
        problem_.threads = asked.threads;
        problem_.few = asked.few;
        problem_.short_block = asked.block;
        problem_.block = asked.few ? asked.block : rows_of_whole_block(asked, asked.queries.count);
    }
    Problem(const Problem&) = delete;

    ScanProblem& view() { return problem_; }

  private:
    std::vector<double> gain_, bias_, sums_, top_logits_;
    std::vector<QueryLaw> law_;
    std::vector<double> known_;
    std::vector<int64_t> top_rows_, kept_;
    const Changes changes_;
    ScanProblem problem_ = {};

    // Finds the factors of a query's logits, the law of their rounding, and what is known of its log-partition.
    void describe(const ScanAsked& asked, int64_t b) {
        const AskedQueries& given = queries.asked();
        const double alpha = given.alpha[b], precision = given.inverse_variance[b],
                     length = std::sqrt(queries.squares[b]);
        gain_[b] = alpha * precision, bias_[b] = -alpha * gain_[b];
        law_[b] = query_law(*asked.rounding, problem_.scan, *asked.rows, asked.count, length, alpha, precision);
        if (asked.directions)
            law_[b].spread = direction_spread(asked.count, alpha, asked.directions->curvature != nullptr);
        if (asked.lse) known_[b] = asked.lse[b] + 0.5 * precision * queries.squares[b];
    }

    void point_to_rows(const RowsView& rows) {
        problem_.rows = rows.stored;
        problem_.stored = rows.storage;
        problem_.dim = rows.dim;
        problem_.centre = rows.centre;
        problem_.half_norms = rows.half_norms;
        problem_.log_weights = rows.log_weights;
    }

    void point_to_queries(const ScanAsked& asked) {
        problem_.batch = asked.queries.count;
        problem_.point = queries.asked().point;
        problem_.gain = gain_.data();
        problem_.bias = bias_.data();
        problem_.law = law_.data();
        problem_.known = asked.lse ? known_.data() : nullptr;
        problem_.changes = changes_.view();
        problem_.ranges = asked.ranges;
        problem_.excluded = asked.excluded;
    }

    void point_to_sums(const ScanAsked& asked, int64_t tops) {
        const int64_t top = asked.out.top_k > 0 ? asked.out.top_k + asked.margin : 0;
        top_logits_.resize(tops * asked.queries.count * top), top_rows_.resize(tops * asked.queries.count * top);
        problem_.top = top;
        problem_.top_logits = top_logits_.data();
        problem_.top_rows = top_rows_.data();
        problem_.listed = asked.listed;
        problem_.kept = kept_.data();
        problem_.sums = sums_.data();
        problem_.mean = asked.out.mean;
        problem_.wants_mean = asked.out.mean != nullptr || asked.directions != nullptr;
        problem_.wants_moments = asked.out.entropy != nullptr;
    }
};

}  // namespace oracle

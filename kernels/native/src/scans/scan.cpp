// The exact scan: begun once, fed spans of rows, and finished; every step is shared out once at most.
#include <new>
#include <vector>

#include "blocks/sums.hpp"
#include "blocks/worker.hpp"
#include "scans/finish.hpp"
#include "scans/steps.hpp"
#include "threads/kept_memory.hpp"
#include "threads/share_out.hpp"

namespace oracle {
namespace {

// what a value of queries takes to prepare or to merge, in operations
constexpr double kPreparing = 64.0;

template <class Real>
class Scan : public Steps {
  public:
    explicit Scan(const ScanAsked& asked)
        : all_(asked, asked.threads),
          problem(all_.view()),
          threads_(usable_threads(problem.threads)),
          // queries are written once, whatever the number of rows
          use_(digit_use<Real>(problem, kWorthDigits)),
          shape(problem),
          memory_(bytes()),
          arena(problem.memory = memory_.begin()),
          shared(shape, problem.few != 0, use_, arena, problem.changes.vector != nullptr) {
        for (int64_t t = 0; t < problem.threads; ++t) memories.emplace_back(shape, problem.few != 0, use_, arena);
        begin();
    }

    void add(int64_t start, int64_t stop) override {
        switch (problem.stored) {
            case kUint8: return add_stored<uint8_t>(start, stop);
            case kInt8: return add_stored<int8_t>(start, stop);
            case kHalf: return add_stored<Half>(start, stop);
            case kBrain: return add_stored<Brain>(start, stop);
            case kFloat: return add_stored<float>(start, stop);
            default: return add_stored<double>(start, stop);
        }
    }

    void finish(ScanAsked& asked) override {
        merge();
        const Listed rescored = listed();
        finish_states(asked, all_, rescored, problem.threads);
        asked.closed = asked.weighed = 0;
        for (const Memory<Real>& own : memories) asked.closed += *own.closed, asked.weighed += *own.weighed;
    }

    Listed list(uint8_t* overflowed) override {
        merge();
        for (int64_t b = 0; b < shape.batch; ++b) {
            overflowed[b] = problem.kept[b] < 0;
            // what is listed too much of is in no sum
            if (shared.directions && overflowed[b])
                std::fill_n(problem.changes.asked->total + b * shape.dim, shape.dim, 0.0);
        }
        return listed();
    }

  private:
    Problem all_;
    ScanProblem& problem;
    const int threads_;
    const DigitUse use_;
    Shape<Real> shape;
    KeptMemory memory_;
    Arena arena;
    Shared<Real> shared;
    std::vector<Memory<Real>> memories;

    // How many threads to share out what takes so many operations for each value of the queries.
    int64_t worth_queries(double operations) const {
        return worth(threads_, operations * shape.batch * (shape.dim + kItself));
    }

    // Merges the sums of all threads.
    void merge() {
        std::vector<QuerySums> parts(problem.threads * problem.threads);
        std::vector<double> factors(problem.threads * problem.threads);
        share_out(worth_queries(kPreparing), problem.threads, [&](int64_t t) {
            QuerySums* own_parts = parts.data() + t * problem.threads;
            double* own_factors = factors.data() + t * problem.threads;
            for (int64_t b = t; b < shape.batch; b += problem.threads) {
                merge_query(problem, shape, memories.data(), b, own_parts, own_factors);
                if (shared.directions)
                    merge_product(problem, shape, memories.data(), b, own_factors);
                else if (problem.wants_mean)
                    merge_mean(problem, shape, memories.data(), b, own_factors);
                for (int64_t i = 0; i < problem.threads; ++i) copy_top(i, b);
            }
        });
    }

    int64_t bytes() const {
        Arena empty(nullptr);
        const Shared<Real> needed(shape, problem.few != 0, use_, empty, problem.changes.vector != nullptr);
        for (int64_t t = 0; t < problem.threads; ++t) Memory<Real>(shape, problem.few != 0, use_, empty);
        return empty.used();
    }

    void begin() {
        share_out(worth_queries(kPreparing), problem.threads, [this](int64_t t) {
            pack_queries(problem, shape, shared.queries, t);
            if (t == 0) pack_centre(problem, shape, shared.centre);
            if (shared.directions)
                pack_panels({problem.changes.vector, nullptr}, shape, shared.directions, t, problem.threads);
            if (use_.any()) pack_digits(problem, shape, shared, t);
            begin_sums(problem, shape, memories[t]);
        });
    }

    template <class Stored>
    void add_stored(int64_t start, int64_t stop) {
        const int64_t count = stop - start, threads = problem.threads;
        share_out(worth_queries(4.0 * count), threads, [&](int64_t t) {
            Worker<Real, Stored>(problem, shape, shared, memories[t])
                .run(start + count * t / threads, start + count * (t + 1) / threads);
        });
    }

    void copy_top(int64_t thread, int64_t b) {
        const int64_t from = b * shape.top, to = (thread * shape.batch + b) * shape.top;
        for (int64_t k = 0; k < shape.top; ++k) {
            problem.top_logits[to + k] = memories[thread].top_logits[from + k];
            problem.top_rows[to + k] = memories[thread].top_rows[from + k];
        }
    }

    // Returns the listed rows that have weight, by query.
    Listed listed() const {
        Listed found;
        found.first.push_back(0);
        for (int64_t b = 0; b < shape.batch; ++b) {
            const double floor = weight_floor(problem, b, problem.sums[shape.batch + b]);
            for (const Memory<Real>& own : memories)
                for (int64_t i = b * shape.listed; problem.kept[b] > 0 && i < b * shape.listed + own.list_count[b]; ++i)
                    if (own.list_logits[i] >= floor) found.row.push_back(own.list_rows[i]);
            found.first.push_back(found.row.size());
        }
        return found;
    }
};

}  // namespace

std::unique_ptr<Steps> begun(const ScanAsked& asked) {
    if (asked.rounding->wide) return std::make_unique<Scan<double>>(asked);
    return std::make_unique<Scan<float>>(asked);
}

}  // namespace oracle

using oracle::ScanAsked;
using oracle::Steps;

// Up to how many queries it pays to read rows as they are stored, without a copy in panels: products in digits share no
// more than the memory, which six queries wait for together, or three where matrix units multiply as many as 16 in the
// time of one; others share the vectors of a row, too.
ORACLE_EXPORT int64_t oracle_few_queries(int64_t stored, int64_t wide, int64_t dim) {
#if defined(__AVX512VNNI__)
    if (stored <= oracle::kInt8 && wide == 0 && oracle::fits_digits(dim)) return oracle::kMatrixUnits ? 3 : 6;
#endif
    (void)stored, (void)wide, (void)dim;
    return 2;
}

// Forgets a scan that was begun and not finished. Returns 0.
ORACLE_EXPORT int64_t oracle_scan_stop(ScanAsked* asked) {
    delete static_cast<Steps*>(asked->begun);
    asked->begun = nullptr;
    return 0;
}

// Scans the rows [start, stop), of which the first of the span begin the scan. Returns 0, or 1 where memory is short.
ORACLE_EXPORT int64_t oracle_scan_rows(ScanAsked* asked, int64_t start, int64_t stop) {
    try {
        if (start == asked->start) asked->begun = oracle::begun(*asked).release();
        static_cast<Steps*>(asked->begun)->add(start, stop);
    } catch (const std::bad_alloc&) {
        oracle_scan_stop(asked);
        return 1;
    }
    return 0;
}

// The same, and the last rows of the span end the scan and write its states.
ORACLE_EXPORT int64_t oracle_scan(ScanAsked* asked, int64_t start, int64_t stop) {
    if (oracle_scan_rows(asked, start, stop)) return 1;
    if (stop < asked->stop) return 0;
    try {
        static_cast<Steps*>(asked->begun)->finish(*asked);
    } catch (const std::bad_alloc&) {
        oracle_scan_stop(asked);
        return 1;
    }
    return oracle_scan_stop(asked);
}

// Writes the windows of all queries, [2, B], at the log-partitions [B]: what the tests compare with the law in Python.
ORACLE_EXPORT int64_t oracle_windows(const ScanAsked* asked, const double* partition, double* windows) {
    try {
        oracle::Problem all(*asked, 1);
        const oracle::ScanProblem& problem = all.view();
        for (int64_t b = 0; b < problem.batch; ++b) {
            const oracle::Windows found = oracle::windows_at(problem.scan, problem.law[b], partition[b]);
            windows[b] = found.weight, windows[problem.batch + b] = found.rescore;
        }
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}

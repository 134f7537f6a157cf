// The exact scan: begun once, fed spans of rows, and finished; every step is one parallel region at most.
#include <memory>
#include <new>
#include <vector>

#include "sums.hpp"
#include "worker.hpp"

namespace oracle {
namespace {

// values of queries from which on their preparation and their merge are shared: on a busy machine every parallel region
// waits for a core
constexpr int64_t kWorthThreads = 1 << 18;

// The memory of a scan, cut up the same way at every call.
template <class Real>
struct Scan {
    const ScanProblem& problem;
    Arena arena;
    Shape<Real> shape;
    Shared<Real> shared;
    std::vector<Memory<Real>> memories;

    explicit Scan(const ScanProblem& asked)
        : problem(asked),
          arena(asked.memory),
          shape(asked),
          shared(shape, asked.few != 0, asked.stored <= kInt8, arena) {
        for (int64_t t = 0; t < problem.threads; ++t) memories.emplace_back(shape, problem.few != 0, arena);
    }

    // Calls `step` with the number of each thread, one after the other where `values` are too few to wait for threads.
    template <class Step>
    void parallel(int64_t values, const Step& step) const {
        const int threads = usable_threads(values < kWorthThreads ? 1 : problem.threads);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
        for (int64_t t = 0; t < problem.threads; ++t) step(t);
    }

    void begin() {
        parallel(shape.batch * shape.dim, [this](int64_t t) {
            pack_queries(problem, shape, shared.queries, t);
            if (t == 0) pack_centre(problem, shape, shared.centre);
            if (shared.digits) pack_digits(problem, shape, shared, t);
            begin_sums(problem, shape, memories[t]);
        });
    }

    void add(int64_t start, int64_t stop) {
        switch (problem.stored) {
            case kUint8: return add_stored<uint8_t>(start, stop);
            case kInt8: return add_stored<int8_t>(start, stop);
            case kHalf: return add_stored<Half>(start, stop);
            case kBrain: return add_stored<Brain>(start, stop);
            case kFloat: return add_stored<float>(start, stop);
            default: return add_stored<double>(start, stop);
        }
    }

    template <class Stored>
    void add_stored(int64_t start, int64_t stop) {
        const int64_t count = stop - start, threads = problem.threads;
        parallel(kWorthThreads, [&](int64_t t) {
            Worker<Real, Stored>(problem, shape, shared, memories[t])
                .run(start + count * t / threads, start + count * (t + 1) / threads);
        });
    }

    void finish() {
        parallel(shape.batch * shape.dim, [this](int64_t t) {
            std::vector<Part> parts(problem.threads);
            std::vector<double> factors(problem.threads);
            for (int64_t b = t; b < shape.batch; b += problem.threads) {
                merge_query(problem, shape, memories.data(), b, parts.data(), factors.data());
                if (problem.wants_mean) merge_mean(problem, shape, memories.data(), b, factors.data());
                for (int64_t i = 0; i < problem.threads; ++i) copy_top(i, b);
            }
        });
    }

    void copy_top(int64_t thread, int64_t b) {
        const int64_t from = b * shape.top, to = (thread * shape.batch + b) * shape.top;
        for (int64_t k = 0; k < shape.top; ++k) {
            problem.top_logits[to + k] = memories[thread].top_logits[from + k];
            problem.top_rows[to + k] = memories[thread].top_rows[from + k];
        }
    }

    // Writes the listed pairs that were kept, by query.
    void listed(int64_t* query, int64_t* row, double* logit) const {
        int64_t place = 0;
        for (int64_t b = 0; b < shape.batch; ++b) {
            if (problem.kept[b] <= 0) continue;
            const double partition = problem.sums[shape.batch + b];
            const double floor = partition - windows_at(problem.scan, problem.law[b], partition).weight;
            for (const Memory<Real>& own : memories)
                for (int64_t i = b * shape.listed; i < b * shape.listed + own.list_count[b]; ++i) {
                    if (!(own.list_logits[i] >= floor)) continue;
                    query[place] = b, row[place] = own.list_rows[i], logit[place++] = own.list_logits[i];
                }
        }
    }
};

// Calls `step` with the scan of this problem; 1 where the memory for a few pointers is missing.
template <class Step>
int64_t with_scan(const ScanProblem& problem, const Step& step) {
    try {
        if (problem.wide) {
            Scan<double> scan(problem);
            step(scan);
        } else {
            Scan<float> scan(problem);
            step(scan);
        }
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}

}  // namespace
}  // namespace oracle

using oracle::ScanProblem;

// Each returns 0, or 1 where memory is missing.

// The bytes of memory that a scan needs.
ORACLE_EXPORT int64_t oracle_scan_bytes(ScanProblem* problem, int64_t* bytes) {
    problem->memory = nullptr;
    return oracle::with_scan(*problem, [&](auto& scan) { *bytes = scan.arena.used(); });
}

ORACLE_EXPORT int64_t oracle_scan_begin(const ScanProblem* problem) {
    return oracle::with_scan(*problem, [](auto& scan) { scan.begin(); });
}

// Adds the rows [start, stop).
ORACLE_EXPORT int64_t oracle_scan_add(const ScanProblem* problem, int64_t start, int64_t stop) {
    return oracle::with_scan(*problem, [&](auto& scan) { scan.add(start, stop); });
}

// Writes what `sums`, `mean`, `kept` and the top point to.
ORACLE_EXPORT int64_t oracle_scan_finish(const ScanProblem* problem) {
    return oracle::with_scan(*problem, [](auto& scan) { scan.finish(); });
}

// Writes the listed pairs, as many as `kept` says.
ORACLE_EXPORT int64_t oracle_scan_listed(const ScanProblem* problem, int64_t* query, int64_t* row, double* logit) {
    return oracle::with_scan(*problem, [&](auto& scan) { scan.listed(query, row, logit); });
}

// Writes the windows of all queries, [2, B], at the log-partitions [B]: what the tests compare with the law in Python.
ORACLE_EXPORT int64_t oracle_windows(const ScanProblem* problem, const double* partition, double* windows) {
    for (int64_t b = 0; b < problem->batch; ++b) {
        const oracle::Windows found = oracle::windows_at(problem->scan, problem->law[b], partition[b]);
        windows[b] = found.weight, windows[problem->batch + b] = found.rescore;
    }
    return 0;
}

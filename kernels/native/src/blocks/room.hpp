// What a thread needs to scan one span for a few of the queries of a problem.
#pragma once
#include <algorithm>

#include "blocks/worker.hpp"

namespace oracle {

// A task has its queries side by side, and the memory of a scan for them.
template <class Real>
struct Room {
    ScanProblem problem;
    double *point, *gain, *bias;
    QueryLaw* law;
    int64_t* excluded;
    Shape<Real> shape;
    Shared<Real> shared;
    Memory<Real> memory;

    Room(const ScanProblem& asked, DigitUse use, Arena arena)
        : problem(asked),
          point(arena.take<double>(asked.batch * asked.dim)),
          gain(arena.take<double>(asked.batch)),
          bias(arena.take<double>(asked.batch)),
          law(arena.take<QueryLaw>(asked.batch)),
          excluded(arena.take<int64_t>(asked.batch * asked.ranges * 2)),
          shape(asked),
          shared(shape, asked.few != 0, use, arena),
          memory(shape, asked.few != 0, use, arena),
          bytes(arena.used()) {
        problem.point = point, problem.gain = gain, problem.bias = bias, problem.law = law, problem.excluded = excluded;
    }

    int64_t bytes;

    void take_query(const ScanProblem& all, int64_t query, int64_t b) {
        std::copy_n(all.point + query * all.dim, all.dim, point + b * all.dim);
        gain[b] = all.gain[query], bias[b] = all.bias[query], law[b] = all.law[query];
        std::copy_n(all.excluded + query * all.ranges * 2, all.ranges * 2, excluded + b * all.ranges * 2);
    }
};

// The problem of `batch` of the queries, for one thread.
inline ScanProblem of_thread(const ScanProblem& all, int64_t batch, int64_t few) {
    ScanProblem part = all;
    part.batch = batch, part.few = batch <= few, part.threads = 1;
    if (part.few) part.block = part.short_block;
    return part;
}

}  // namespace oracle

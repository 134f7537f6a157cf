// From the sums of a scan to the states that the host asked for.
#pragma once
#include "scans/asked.hpp"

namespace oracle {

// Rows to score again: those of query b from first[b] on, [B + 1].
struct Listed {
    std::vector<int64_t> first, row;
};

// Writes the states of all queries: from their sums, from the rows they list, which are scored again, and from the
// candidates for their heaviest samples, of which each has `tops` lists. Queries with too many rows are marked only.
void finish_states(ScanAsked& asked, Problem& problem, const Listed& listed, int64_t tops);

}  // namespace oracle

// A scan that was begun: what is kept from call to call.
#pragma once
#include <memory>

#include "scans/asked.hpp"
#include "scans/finish.hpp"

namespace oracle {

class Steps {
  public:
    virtual ~Steps() = default;
    // Adds the rows [start, stop).
    virtual void add(int64_t start, int64_t stop) = 0;
    // Writes the states of all queries.
    virtual void finish(ScanAsked& asked) = 0;
    // Returns the rows that each query lists; overflowed, [B], becomes 1 for one that lists too many, of which it
    // returns none, and else 0.
    virtual Listed list(uint8_t* overflowed) = 0;
};

// Begins a scan. Throws std::bad_alloc.
std::unique_ptr<Steps> begun(const ScanAsked& asked);

}  // namespace oracle

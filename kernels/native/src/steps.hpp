// A scan that was begun: what is kept from call to call.
#pragma once
#include <memory>

#include "asked.hpp"

namespace oracle {

class Steps {
  public:
    virtual ~Steps() = default;
    // Adds the rows [start, stop).
    virtual void add(int64_t start, int64_t stop) = 0;
    // Writes the states of all queries.
    virtual void finish(ScanAsked& asked) = 0;
};

// Begins a scan. Throws std::bad_alloc.
std::unique_ptr<Steps> begun(const ScanAsked& asked);

}  // namespace oracle

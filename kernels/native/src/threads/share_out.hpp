// Work that threads share: whoever is awake for it, and whoever comes in time where nobody is.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>

#include "threads/helpers.hpp"
#include "threads/regions.hpp"
#include "threads/threads.hpp"

namespace oracle {

// Operations of a scan from which on it is worth the few microseconds that it takes to share them out; and what a query
// or a row counts for, in values of it, apart from those that it has.
constexpr double kWorthSharing = 2e6, kItself = 64.0;

// How many of `threads` are worth their while for so many operations.
inline int64_t worth(int64_t threads, double operations) {
    return operations >= kWorthSharing ? threads : 1;
}

// Calls work(share) for each of the `shares`, with so many threads at most, the one that calls among them; who takes
// which share is open. More than one thread are not for a forked process. Throws bad_alloc where one of them did.
template <class Work>
void share_out(int64_t threads, int64_t shares, const Work& work) {
    if (threads < 2 || shares < 2) {
        for (int64_t share = 0; share < shares; ++share) work(share);
        return;
    }
    std::atomic<bool> short_of_memory{false};
    const auto guarded = [&](int64_t share) {
        try {
            work(share);
        } catch (const std::bad_alloc&) {
            short_of_memory = true;
        }
    };
    // helpers would get no processor beside threads of a region that wait awake, and a region has to wait until others
    // are woken, which may take longer than a scan (measured)
    if (RegionThreads::of_caller().awake(threads))
        in_region(threads, shares, guarded);
    else
        with_helpers(threads, shares, guarded);
    if (short_of_memory) throw std::bad_alloc();
}

// ranges of a thread: one that comes late or is held up leaves some to the others, and what is dear may be all together
constexpr int64_t kRanges = 16;

// Calls work(i) for each of `count` small things, neighbours by one thread, as share_out() does.
template <class Work>
void share_out_many(int64_t threads, int64_t count, const Work& work) {
    const int64_t ranges = threads < 2 ? 1 : std::min(count, kRanges * threads);
    share_out(threads, ranges, [&](int64_t range) {
        for (int64_t i = count * range / ranges; i < count * (range + 1) / ranges; ++i) work(i);
    });
}

}  // namespace oracle

#include "threads/regions.hpp"

#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>

#include "threads/threads.hpp"

namespace oracle {
namespace {

// Returns what a clock says in nanoseconds, or -1 where there is none.
int64_t read(clockid_t clock) {
    timespec found;
    if (clock_gettime(clock, &found) != 0) return -1;
    return int64_t{1000000000} * found.tv_sec + found.tv_nsec;
}

// The clock that tells how long a thread of this process has had a processor: it is how Linux encodes the thread, for
// which C knows a name only as long as there is one.
clockid_t clock_of(int32_t id) {
    return static_cast<clockid_t>(~static_cast<uint32_t>(id) << 3 | 6);
}

// What share of the time two threads have a processor, added up, where each has one of its own.
constexpr double kBoth = 1.5;

std::atomic<int64_t> regions{0};

}  // namespace

RegionThreads& RegionThreads::of_caller() {
    thread_local RegionThreads own;
    return own;
}

RegionThreads& RegionThreads::of_region() {
    ++regions;
    return of_caller();
}

int64_t RegionThreads::begun() {
    return regions.load(std::memory_order_relaxed);
}

// since, own: nanoseconds since it was last looked at, and those of them that the calling thread had a processor.
bool RegionThreads::is_awake(Watched& one, double since, double own) const {
    const int64_t busy = one.id == 0 ? -1 : read(clock_of(one.id));
    if (busy < 0) return one = {}, true;
    // both had one most of the time, and not the same: a helper that looks out for work may have its at the moment
    const bool lately = own + static_cast<double>(busy - one.busy) > kBoth * since;
    one.busy = busy;
    return lately || read(clock_of(one.id)) != busy;
}

bool RegionThreads::awake(int64_t threads) {
    const int64_t now = read(CLOCK_MONOTONIC), busy = read(CLOCK_THREAD_CPUTIME_ID);
    const double since = static_cast<double>(now - seen_), own = static_cast<double>(busy - busy_);
    seen_ = now, busy_ = busy;
    bool all = true;
    for (int64_t i = 0; i < std::min<int64_t>(threads - 1, kWatched); ++i) all &= is_awake(watched_[i], since, own);
    return all;
}

void RegionThreads::meet(int number) {
    thread_local const auto own = static_cast<int32_t>(syscall(SYS_gettid));
    if (1 <= number && number <= kWatched) watched_[number - 1].id = own;
}

}  // namespace oracle

// How many regions have shared out work in this process.
ORACLE_EXPORT int64_t oracle_regions_begun() {
    return oracle::RegionThreads::begun();
}

// Parallel regions of OpenMP, whose threads wait awake for a while after each: a region begins at once meanwhile, and
// whoever else wants their processors waits. One that begins later has to wake them.
#pragma once
#include <omp.h>

#include <atomic>
#include <cstdint>

namespace oracle {

// The threads that OpenMP keeps for the calling thread, whose regions other libraries begin as well, as far as they
// were met in a region of this one.
class RegionThreads {
  public:
    static RegionThreads& of_caller();

    // The same, where it begins a region.
    static RegionThreads& of_region();

    // Regions that have begun in this process.
    static int64_t begun();

    // Whether `threads` of them are at it, on processors of their own, as long as they are; a region is to tell where
    // nothing is known of them.
    bool awake(int64_t threads);

    // Called by each thread of a region, with its number there.
    void meet(int number);

  private:
    // threads that are looked at: they wait together
    static constexpr int kWatched = 3;

    // One of the threads 1, 2, .. of a region. id: as the system numbers it, or 0. busy: the time that it had had a
    // processor, in nanoseconds, when it was last looked at.
    struct Watched {
        int32_t id;
        int64_t busy;
    };
    Watched watched_[kWatched] = {};
    // when they were last looked at, and the time that the calling thread had had a processor by then
    int64_t seen_ = 0, busy_ = 0;

    bool is_awake(Watched& one, double since, double own) const;
};

// Calls work(share) for each of the `shares` in a region of so many threads, the first ones in the order of these.
// work throws nothing.
template <class Work>
void in_region(int64_t threads, int64_t shares, const Work& work) {
    RegionThreads& known = RegionThreads::of_region();
    std::atomic<int64_t> next{0};
#pragma omp parallel num_threads(static_cast<int>(threads))
    {
        const int64_t own = omp_get_thread_num(), all = omp_get_num_threads();
        known.meet(static_cast<int>(own));
        for (int64_t share = own; share < shares; share = all + next++) work(share);
    }
}

}  // namespace oracle

// Threads that take shares of small work while they are awake: nobody waits for one that has taken none.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>

namespace oracle {

// Work that is cut into shares, as the threads that help with it see it.
struct SharedWork {
    void (*call)(const void* work, int64_t share);
    const void* work;
    int64_t shares, most;             // and how many helpers may be at it together
    int64_t next = 0;                 // the first share that nobody has taken
    SharedWork* following = nullptr;  // among all that helpers may take from
    std::atomic<int64_t> helping{0};  // helpers that are at a share
};

// Does all shares of `work`.
void do_shares(SharedWork& work);

// Calls work(share) for each of the `shares`, with so many `threads` at most, the one that calls among them; work
// throws nothing. More than one thread are not for a forked process, where the helpers of its parent are gone.
template <class Work>
void with_helpers(int64_t threads, int64_t shares, const Work& work) {
    if (threads < 2 || shares < 2) {
        for (int64_t share = 0; share < shares; ++share) work(share);
        return;
    }
    const auto call = [](const void* of, int64_t share) { (*static_cast<const Work*>(of))(share); };
    SharedWork shared{call, &work, shares, threads - 1};
    do_shares(shared);
}

// ranges of a thread: one that comes late or is held up leaves some to the others, and what is dear may be all together
constexpr int64_t kRanges = 16;

// Calls work(i) for each of `count` small things, neighbours by one thread, as with_helpers() does. Throws bad_alloc
// where one of them did.
template <class Work>
void share_out_many(int64_t threads, int64_t count, const Work& work) {
    const int64_t ranges = threads < 2 ? 1 : std::min(count, kRanges * threads);
    std::atomic<bool> short_of_memory{false};
    with_helpers(threads, ranges, [&](int64_t range) {
        try {
            for (int64_t i = count * range / ranges; i < count * (range + 1) / ranges; ++i) work(i);
        } catch (const std::bad_alloc&) {
            short_of_memory = true;
        }
    });
    if (short_of_memory) throw std::bad_alloc();
}

}  // namespace oracle

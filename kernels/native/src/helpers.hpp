// Threads that take shares of small work while they are awake: nobody waits for one that has taken none.
#pragma once
#include <atomic>
#include <cstdint>

namespace oracle {

// Work that is cut into shares, as the threads that help with it see it.
struct SharedWork {
    void (*call)(const void* work, int64_t share);
    const void* work;
    int64_t shares;
    int64_t next = 0;                 // the first share that nobody has taken
    SharedWork* following = nullptr;  // among all that helpers may take from
    std::atomic<int64_t> helping{0};  // helpers that are at a share
};

// Does all shares of `work`, with so many threads at most.
void do_shares(SharedWork& work, int64_t threads);

// Calls work(share) for each of the `shares`, with so many `threads` at most, the one that calls among them; work
// throws nothing. Not for a forked process, where the helpers of its parent are gone.
template <class Work>
void with_helpers(int64_t threads, int64_t shares, const Work& work) {
    SharedWork shared{[](const void* of, int64_t share) { (*static_cast<const Work*>(of))(share); }, &work, shares};
    do_shares(shared, threads);
}

}  // namespace oracle

// Threads that take shares of work when they have come: nobody waits for one that has taken none.
#pragma once
#include <atomic>
#include <cstdint>

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
// throws nothing.
template <class Work>
void with_helpers(int64_t threads, int64_t shares, const Work& work) {
    const auto call = [](const void* of, int64_t share) { (*static_cast<const Work*>(of))(share); };
    SharedWork shared{call, &work, shares, threads - 1};
    do_shares(shared);
}

}  // namespace oracle

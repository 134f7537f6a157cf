// How many threads a parallel region may have, and regions that hand on that memory is short.
#pragma once
#include <cstdint>
#include <new>

#define ORACLE_EXPORT extern "C" __attribute__((visibility("default")))

namespace oracle {

// `wanted` threads, at least 1; a single one in a forked process, where the threads of its parent are gone and waiting
// for them would never end.
int usable_threads(int64_t wanted);

// Calls work(task) for each task, which threads take as they become free. Throws bad_alloc where one of them did.
template <class Work>
void share_out(int64_t threads, int64_t tasks, const Work& work) {
    bool short_of_memory = false;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) reduction(|| : short_of_memory) if (threads > 1)
    for (int64_t task = 0; task < tasks; ++task) try {
            work(task);
        } catch (const std::bad_alloc&) {
            short_of_memory = true;
        }
    if (short_of_memory) throw std::bad_alloc();
}

}  // namespace oracle

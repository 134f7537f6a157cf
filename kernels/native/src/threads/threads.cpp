#include "threads/threads.hpp"

#include <pthread.h>

namespace oracle {
namespace {

volatile bool forked = false;

// what the loader runs: a child of a fork starts with this set
__attribute__((constructor)) void watch_forks() {
    pthread_atfork(nullptr, nullptr, [] { forked = true; });
}

}  // namespace

int usable_threads(int64_t wanted) {
    return forked || wanted < 1 ? 1 : static_cast<int>(wanted);
}

}  // namespace oracle

ORACLE_EXPORT int64_t oracle_usable_threads(int64_t wanted) {
    return oracle::usable_threads(wanted);
}

// How many threads may work.
#pragma once
#include <cstdint>

#define ORACLE_EXPORT extern "C" __attribute__((visibility("default")))

namespace oracle {

// `wanted` threads, at least 1; a single one in a forked process, where the threads of its parent are gone and waiting
// for them would never end.
int usable_threads(int64_t wanted);

}  // namespace oracle

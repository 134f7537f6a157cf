// What the host asks of the machine: leave to use matrix units, which the system keeps from processes that have not
// asked for it, and sizes that blocks are cut by.
#include <unistd.h>

#include "core/matrix_units.hpp"
#include "threads/threads.hpp"
#if defined(__AMX_INT8__)
#include <sys/syscall.h>
#endif

// Returns 1 where what this library is made of may be used in this process, and 0 where the system keeps it from it.
ORACLE_EXPORT int64_t oracle_permitted() {
#if defined(__AMX_INT8__)
    // of the kernel's asm/prctl.h and of its x86 documentation: the registers of matrix units
    constexpr long kAskForState = 0x1023, kTileRegisters = 18;
    return syscall(SYS_arch_prctl, kAskForState, kTileRegisters) == 0;
#else
    return 1;
#endif
}

// Whether this library multiplies bytes by matrix units, and the bytes of its vectors.
ORACLE_EXPORT int64_t oracle_matrix_units() {
    return oracle::kMatrixUnits;
}
ORACLE_EXPORT int64_t oracle_vector_bytes() {
    return oracle::kVectorBytes;
}

// The bytes of a core's second cache, 0 where the system does not say.
ORACLE_EXPORT int64_t oracle_second_cache() {
#if defined(_SC_LEVEL2_CACHE_SIZE)
    const long found = sysconf(_SC_LEVEL2_CACHE_SIZE);
    return found > 0 ? found : 0;
#else
    return 0;
#endif
}

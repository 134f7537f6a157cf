// Values of any floating dtype in float64, and whether all of them are finite.
#include "core/widen.hpp"
#include "threads/threads.hpp"

// out, [count], becomes `values` of the dtype `storage`. Returns 0, or 1 where one of them is not finite.
ORACLE_EXPORT int oracle_widen(const void* values, int64_t storage, int64_t count, double* out) {
    bool finite = true;
    oracle::with_storage(storage, [&](auto* type) {
        finite = oracle::widen(static_cast<decltype(type)>(const_cast<void*>(values)), count, out);
    });
    return finite ? 0 : 1;
}

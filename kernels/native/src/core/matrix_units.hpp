// Matrix units (AMX): products of tiles of 16 rows with 64 bytes each, in eight registers.
#pragma once
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

#include "core/simd.hpp"

namespace oracle {

// rows and columns of a tile of sums, and bytes of a row of a tile that is multiplied
constexpr int kUnitRows = 16;
constexpr int64_t kUnitBytes = 64;

// sums of a tile, of 32 bits each
constexpr int64_t kUnitSums = kUnitRows * kUnitRows;

#if defined(__AMX_INT8__)
// whether this library multiplies by matrix units
constexpr bool kMatrixUnits = true;

// All registers hold whole tiles.
struct alignas(64) WholeTiles {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
// the instruction reads it from memory
inline constexpr WholeTiles whole_tiles{};

// A tile in memory as AddressSanitizer sees it, which knows nothing of what assembly reads and writes.
ORACLE_INLINE void watch_tile(const void* at, int64_t stride, bool written) {
#if defined(__SANITIZE_ADDRESS__)
    for (int row = 0; row < kUnitRows; ++row) {
        char* const begin = static_cast<char*>(const_cast<void*>(at)) + row * stride;
        if (void* const bad = __asan_region_is_poisoned(begin, kUnitBytes))
            __asan_report_error(__builtin_return_address(0), __builtin_frame_address(0), nullptr, bad, written, 1);
    }
#else
    (void)at, (void)stride, (void)written;
#endif
}

// What one register does, by its number: memory is read and written in rows of 64 bytes that are `stride` apart.
template <int TILE>
ORACLE_INLINE void clear_tile() {
    asm volatile("tilezero %%tmm%c0" ::"i"(TILE));
}
template <int TILE>
ORACLE_INLINE void load_tile(const void* from, int64_t stride) {
    watch_tile(from, stride, false);
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(TILE) : "memory");
}
template <int TILE>
ORACLE_INLINE void store_tile(void* to, int64_t stride) {
    watch_tile(to, stride, true);
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(TILE) : "memory");
}

// Adds the products of the bytes of two registers to the sums of a third one: the first one's have no sign.
template <int SUMS, int UNSIGNED, int SIGNED>
ORACLE_INLINE void add_tile() {
    asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUMS), "i"(UNSIGNED), "i"(SIGNED));
}
// The same where it is the second one's.
template <int SUMS, int SIGNED, int UNSIGNED>
ORACLE_INLINE void add_signed_tile() {
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUMS), "i"(SIGNED), "i"(UNSIGNED));
}

// The same where both have signs.
template <int SUMS, int FIRST, int SECOND>
ORACLE_INLINE void add_both_signed_tile() {
    asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUMS), "i"(FIRST), "i"(SECOND));
}

// The same of the first registers: sums of COUNT tiles, side by side in memory.
template <int COUNT>
ORACLE_INLINE void clear_tiles() {
    if constexpr (COUNT > 0) clear_tiles<COUNT - 1>(), clear_tile<COUNT - 1>();
}
template <int COUNT>
ORACLE_INLINE void store_tiles(int32_t* to) {
    if constexpr (COUNT > 0)
        store_tiles<COUNT - 1>(to), store_tile<COUNT - 1>(to + (COUNT - 1) * kUnitSums, kUnitBytes);
}

// The matrix unit of a thread, which is shaped while this lives; the system saves no registers of it afterwards.
class MatrixUnit {
  public:
    MatrixUnit() { _tile_loadconfig(&whole_tiles); }
    ~MatrixUnit() { _tile_release(); }
    MatrixUnit(const MatrixUnit&) = delete;
};
#else
constexpr bool kMatrixUnits = false;

struct MatrixUnit {
    // as where there is one: nothing is left unused
    MatrixUnit() {}
};
#endif

}  // namespace oracle

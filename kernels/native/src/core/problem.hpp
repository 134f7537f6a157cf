// What float64 kernels are asked: rows as they are stored, queries, and when float64 is not enough.
#pragma once
#include "core/simd.hpp"

namespace oracle {

// in the order of STORAGE_DTYPES
enum class Storage : int64_t { u8, i8, f16, bf16, f32, f64 };

struct RowsView {
    const void* stored;  // [N, dim], `stride` values from row to row
    int64_t storage, stride, dim;
    const double* centre;        // [dim]
    const double* log_weights;   // [N], null for equal weights
    const double* half_norms;    // [N], |r|^2 / 2 without the centre
    double radius, centre_norm;  // the largest |r| without the centre, and the norm of the centre
    int64_t copies;              // how many rows, at most, nearly equal each other
};

struct QueriesView {
    int64_t count;
    const double* stored_point;  // [B, dim], against rows that still carry their centre
    const double* given;         // [B, dim], against stored - centre, or else scale * stored + offset
    double scale, offset;
    int64_t centred;                 // which of the two
    const double* alpha;             // [B]
    const double* inverse_variance;  // [B]
    const double* size;              // [B], of the terms of a difference
};

// kernels/common/rescore.py says what these decide
struct Digits {
    double roundoff, gap_limit, logit_share, window;
    int64_t mergeable;
};

// Calls work with a null pointer to the type that values are stored in.
template <class Work>
void with_storage(int64_t storage, const Work& work) {
    switch (static_cast<Storage>(storage)) {
        case Storage::u8: return work(static_cast<uint8_t*>(nullptr));
        case Storage::i8: return work(static_cast<int8_t*>(nullptr));
        case Storage::f16: return work(static_cast<Half*>(nullptr));
        case Storage::bf16: return work(static_cast<Brain*>(nullptr));
        case Storage::f32: return work(static_cast<float*>(nullptr));
        case Storage::f64: return work(static_cast<double*>(nullptr));
    }
}

template <class T>
ORACLE_INLINE const T* row_of(const RowsView& rows, int64_t row) {
    return static_cast<const T*>(rows.stored) + row * rows.stride;
}

}  // namespace oracle

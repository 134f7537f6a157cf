// Values of any floating dtype in float64.
#pragma once
#include "core/problem.hpp"

namespace oracle {

// Returns whether all values are finite: of one that is not, the difference to itself is no number.
template <class T>
bool widen(const T* values, int64_t count, double* out) {
    double rest = 0.0;
    for (int64_t i = 0; i < count; ++i) out[i] = static_cast<double>(widened(values[i]));
    Vector<double> strange = {};
    constexpr int64_t W = Simd<double>::lanes;
    int64_t i = 0;
    for (; i + W <= count; i += W) strange += load(out + i) - load(out + i);
    for (; i < count; ++i) rest += out[i] - out[i];
    for (int lane = 0; lane < W; ++lane) rest += strange[lane];
    return rest == 0.0;
}

}  // namespace oracle

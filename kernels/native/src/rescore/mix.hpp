// Two posterior means mixed.
#pragma once
#include <cstdint>
#include <cstring>

namespace oracle {

// what a value of a mean takes to be mixed with another, in operations
constexpr double kMixing = 64.0;

// first = share * first + other * second; returns |second - first|^2, or zero where one of them has no share.
inline double mix(double share, double other, const double* second, int64_t dim, double* first) {
    if (other == 0.0 && share == 1.0) return 0.0;
    if (share == 0.0 && other == 1.0) {
        std::memcpy(first, second, dim * sizeof(double));
        return 0.0;
    }
    double gap = 0.0;
    for (int64_t d = 0; d < dim; ++d) {
        const double step = second[d] - first[d];
        gap += step * step;
        first[d] = share * first[d] + other * second[d];
    }
    return gap;
}

}  // namespace oracle

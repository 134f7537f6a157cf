// Answers that are linear in a posterior mean and in the point that it belongs to.
#pragma once
#include <cmath>

#include "core/simd.hpp"
#include "rescore/mix.hpp"
#include "threads/share_out.hpp"

namespace oracle {

struct CombinationView {
    const double *x, *mean;              // [B, D]
    const double *alpha, *direct, *gap;  // [B]
    double scale;
    const double* base;  // [D]
    int64_t batch, dim;

    // How many threads to share the queries out to.
    int64_t hands(int64_t threads) const { return worth(threads, kMixing * batch * (dim + kItself)); }
};

// Value d of the answer of query b. The centre comes off x before the mean does: far from zero their difference has
// digits that a value has no room for.
inline double answer_of(const CombinationView& of, int64_t b, int64_t d) {
    const double mean = of.scale * of.mean[b * of.dim + d], base = of.base[d], alpha = of.alpha[b];
    const double rest = std::fma(-alpha, mean, std::fma(-alpha, base, of.x[b * of.dim + d]));
    return of.direct[b] * (mean + base) + of.gap[b] * rest;
}

// out, [D], becomes the answer of query b, see kernels/common/combine.py.
template <class Out>
void combine(const CombinationView& of, int64_t b, Out* out) {
    for (int64_t d = 0; d < of.dim; ++d) {
        out[d] = narrowed<Out>(answer_of(of, b, d));
    }
}

template <class Out>
void combine_all(const CombinationView& of, Out* out, int threads) {
    share_out_many(of.hands(threads), of.batch, [&](int64_t b) { combine(of, b, out + b * of.dim); });
}

}  // namespace oracle

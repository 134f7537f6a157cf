// Answers that are linear in a posterior mean and in the point that it belongs to.
#pragma once
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

// out, [D], becomes the answer of query b, see kernels/common/combine.py.
template <class Out>
void combine(const CombinationView& of, int64_t b, Out* out) {
    const double alpha = of.alpha[b], direct = of.direct[b], gap = of.gap[b];
    const double *x = of.x + b * of.dim, *mean = of.mean + b * of.dim;
    for (int64_t d = 0; d < of.dim; ++d) {
        const double value = of.scale * mean[d] + of.base[d];
        out[d] = narrowed<Out>(direct * value + gap * (x[d] - alpha * value));
    }
}

template <class Out>
void combine_all(const CombinationView& of, Out* out, int threads) {
    share_out_many(of.hands(threads), of.batch, [&](int64_t b) { combine(of, b, out + b * of.dim); });
}

}  // namespace oracle

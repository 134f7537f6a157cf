// One pass over posterior means: two of them mixed, and what answers are made of them.
#include "simd.hpp"
#include "threads.hpp"

namespace oracle {
namespace {

// values below which a parallel region costs more than it saves
constexpr int64_t kWorthSharing = 1 << 17;

struct CombinationView {
    const double *x, *mean;              // [B, D]
    const double *alpha, *direct, *gap;  // [B]
    double scale;
    const double* base;  // [D]
    int64_t batch, dim;
};

template <class Out>
void combine(const CombinationView& of, int64_t b, Out* out) {
    const double alpha = of.alpha[b], direct = of.direct[b], gap = of.gap[b];
    const double *x = of.x + b * of.dim, *mean = of.mean + b * of.dim;
    for (int64_t d = 0; d < of.dim; ++d) {
        const double value = of.scale * mean[d] + of.base[d];
        out[d] = static_cast<Out>(direct * value + gap * (x[d] - alpha * value));
    }
}

template <class Out>
void combine_all(const CombinationView& of, Out* out, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (of.batch * of.dim > kWorthSharing)
    for (int64_t b = 0; b < of.batch; ++b) combine(of, b, out + b * of.dim);
}

// first = share * first + other * second; returns |second - first|^2, or zero where one of them has no share.
double mix(double share, double other, const double* second, int64_t dim, double* first) {
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

}  // namespace
}  // namespace oracle

using namespace oracle;

// first, [B, D], becomes shares * first + others * second; gaps, [B], the squared distances where both have a share.
// Returns 0.
ORACLE_EXPORT int oracle_mix_means(const double* shares, const double* others, const double* second, int64_t batch,
                                   int64_t dim, int64_t threads, double* first, double* gaps) {
    const int most = usable_threads(threads);
#pragma omp parallel for num_threads(most) schedule(static) if (batch * dim > kWorthSharing)
    for (int64_t b = 0; b < batch; ++b) gaps[b] = mix(shares[b], others[b], second + b * dim, dim, first + b * dim);
    return 0;
}

// out, [B, D] float32 or else float64, becomes the answers, see kernels/common/combine.py. Returns 0.
ORACLE_EXPORT int oracle_combine(const CombinationView* of, int64_t single, int64_t threads, void* out) {
    if (single) combine_all(*of, static_cast<float*>(out), usable_threads(threads));
    if (!single) combine_all(*of, static_cast<double*>(out), usable_threads(threads));
    return 0;
}

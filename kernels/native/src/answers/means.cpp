// One pass over posterior means: what answers are made of them, and how long both are.
#include <cmath>

#include "answers/combine.hpp"

namespace oracle {
namespace {

// sums that are taken side by side, so that they fit vectors
constexpr int kSums = 8;

struct Norms {
    double answer, mean;
};

Norms norms_of(const CombinationView& of, int64_t b) {
    const double* mean = of.mean + b * of.dim;
    double answers[kSums] = {}, means[kSums] = {};
    const auto add = [&](int64_t d, int k) {
        const double answer = answer_of(of, b, d);
        answers[k] += answer * answer, means[k] += mean[d] * mean[d];
    };
    int64_t d = 0;
    for (; d + kSums <= of.dim; d += kSums)
        for (int k = 0; k < kSums; ++k) add(d + k, k);
    for (; d < of.dim; ++d) add(d, 0);
    for (int k = 1; k < kSums; ++k) answers[0] += answers[k], means[0] += means[k];
    return {std::sqrt(answers[0]), std::sqrt(means[0])};
}

}  // namespace
}  // namespace oracle

using namespace oracle;

// out, [B, D] float32 or else float64, becomes the answers, see kernels/common/combine.py. Returns 0.
ORACLE_EXPORT int oracle_combine(const CombinationView* of, int64_t single, int64_t threads, void* out) {
    if (single) combine_all(*of, static_cast<float*>(out), usable_threads(threads));
    if (!single) combine_all(*of, static_cast<double*>(out), usable_threads(threads));
    return 0;
}

// answer, mean, [B] each, become the norms of the answers and of the means. Returns 0.
ORACLE_EXPORT int oracle_combined_norms(const CombinationView* of, int64_t threads, double* answer, double* mean) {
    share_out_many(of->hands(usable_threads(threads)), of->batch, [&](int64_t b) {
        const Norms norms = norms_of(*of, b);
        answer[b] = norms.answer, mean[b] = norms.mean;
    });
    return 0;
}

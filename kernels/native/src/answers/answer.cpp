// Answers to queries as a caller has them, in one call: what is asked of the posterior mean, rounded to the dtype of x.
#include <new>

#include "answers/combine.hpp"
#include "core/widen.hpp"
#include "scans/steps.hpp"

namespace oracle {
namespace {

// What all answers over the same rows have in common, as answer.py lays it out.
struct AnswersAsked {
    ScanAsked scan;        // of the first queries, and without what depends on them
    const double* base;    // [D], the centre of the rows in the space of values
    double scale, offset;  // a value is scale * stored + offset
    double point_std, least_variance;
    double farthest;                // log-partitions from which on down queries need another look
    int64_t few, few_block, block;  // up to how many queries are few, and rows of a block for these and for others
    // bytes of the rows that must still be what they were
    int64_t probes, probe_bytes;
    const int64_t* probe_at;  // [probes]
    const char* probe;        // [probes * probe_bytes]
};

// Queries as they were given.
struct Given {
    const void* x;  // [B, D] of the dtype `storage`
    int64_t storage, batch;
    const double* coefficients;  // alpha, sigma, and the factors of sample and noise: [4, B], or [4] for all queries
    int64_t each;                // which of the two
};

// The queries in float64, and what their answers are made of.
class Answers {
  public:
    Answers(const AnswersAsked& asked, const Given& given)
        : asked_(asked),
          batch_(given.batch),
          dim_(asked.scan.rows->dim),
          room_(new double[batch_ * (2 * dim_ + 6)]),
          x_(room_.get()),
          mean_(x_ + batch_ * dim_),
          alpha_(mean_ + batch_ * dim_),
          variance_(alpha_ + batch_),
          direct_(variance_ + batch_),
          gap_(direct_ + batch_),
          lse_(gap_ + batch_) {
        std::fill_n(lse_, 2 * batch_, 0.0);
        usable_ = unchanged() && values(given) && factors(given);
    }

    // Whether all queries can be answered in this way, as far as it is known before a scan.
    bool usable() const { return usable_; }

    // Finds the posterior means. Returns whether all of them are found.
    bool scan(int64_t threads) {
        ScanAsked scan = asked_.scan;
        scan.queries = {batch_, nullptr, nullptr, alpha_, x_, variance_, asked_.base, asked_.scale, asked_.offset};
        scan.threads = threads, scan.few = batch_ <= asked_.few;
        scan.block = scan.few ? asked_.few_block : asked_.block;
        scan.out = {lse_, lse_ + batch_, mean_, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, 0};
        const std::unique_ptr<Steps> steps = begun(scan);
        steps->add(scan.start, scan.stop);
        steps->finish(scan);
        const auto near = [this](double one) { return one > asked_.farthest; };
        return scan.overflows == 0 && std::all_of(lse_, lse_ + batch_, near);
    }

    // Writes the answers. Returns whether all of them are numbers of their dtype.
    template <class Out>
    bool write(Out* out, int64_t threads) const {
        combine_all({x_, mean_, alpha_, direct_, gap_, asked_.scale, asked_.base, batch_, dim_}, out,
                    usable_threads(threads));
        float strange = 0.0f;
        for (int64_t i = 0; i < batch_ * dim_; ++i) strange += static_cast<float>(widened(out[i]) - widened(out[i]));
        return strange == 0.0f;
    }

  private:
    const AnswersAsked& asked_;
    const int64_t batch_, dim_;
    const std::unique_ptr<double[]> room_;
    double *const x_, *const mean_, *const alpha_, *const variance_, *const direct_, *const gap_, *const lse_;
    bool usable_;

    bool unchanged() const {
        const char* rows = static_cast<const char*>(asked_.scan.rows->stored);
        for (int64_t i = 0; i < asked_.probes; ++i)
            if (std::memcmp(rows + asked_.probe_at[i], asked_.probe + i * asked_.probe_bytes, asked_.probe_bytes) != 0)
                return false;
        return true;
    }

    bool values(const Given& given) const {
        bool finite = true;
        with_storage(given.storage, [&](auto* type) {
            finite = widen(static_cast<decltype(type)>(const_cast<void*>(given.x)), batch_ * dim_, x_);
        });
        return finite;
    }

    // The answer E[a X + b eps | x] is direct m + gap (x - alpha m): see Prediction in oracle_engine/paths/paths.py.
    bool factors(const Given& given) const {
        const int64_t step = given.each ? batch_ : 1;
        const bool wide_samples = asked_.point_std != 0.0;
        for (int64_t b = 0; b < batch_; ++b) {
            const double* of = given.coefficients + (given.each ? b : 0);
            const double alpha = of[0], sigma = of[step], wide = alpha * asked_.point_std;
            const double variance = wide_samples ? sigma * sigma + wide * wide : sigma * sigma;
            if (!(variance > asked_.least_variance)) return false;
            const double own =
                wide_samples ? of[2 * step] * (alpha * asked_.point_std * asked_.point_std / variance) : 0.0;
            alpha_[b] = alpha, variance_[b] = variance;
            direct_[b] = of[2 * step], gap_[b] = of[3 * step] * sigma / variance + own;
        }
        return true;
    }
};

}  // namespace
}  // namespace oracle

using namespace oracle;

// out, [B, D] of the dtype `storage`, becomes the answers to x. Returns 0, or 1 where one of the queries needs another
// look: it cannot be answered, or not by this scan alone, or memory is short. Then `out` holds nothing of use.
ORACLE_EXPORT int64_t oracle_answer(const AnswersAsked* asked, const void* x, int64_t storage, int64_t batch,
                                    const double* coefficients, int64_t each, int64_t threads, void* out) {
    try {
        Answers answers(*asked, {x, storage, batch, coefficients, each});
        if (!answers.usable() || !answers.scan(threads)) return 1;
        bool finite = false;
        switch (static_cast<Storage>(storage)) {
            case Storage::f16: finite = answers.write(static_cast<Half*>(out), threads); break;
            case Storage::bf16: finite = answers.write(static_cast<Brain*>(out), threads); break;
            case Storage::f32: finite = answers.write(static_cast<float*>(out), threads); break;
            default: finite = answers.write(static_cast<double*>(out), threads);
        }
        return finite ? 0 : 1;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

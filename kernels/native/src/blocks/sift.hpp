// Late in time few rows matter: products with the leading digits of queries tell which, and these alone are multiplied
// whole.
//
// What the lower digits add to <r, q> is at most |r| times their norm, and what the codes of a row leave adds no more
// than its norm times that of the leading digits (Cauchy-Schwarz): the rows that are taken out have no weight for sure.
#pragma once
#include "blocks/softmax.hpp"
#include "digits/codes.hpp"
#include "digits/leading_digits.hpp"
#include "products/few.hpp"

namespace oracle {

// share of the pairs of a block that may be multiplied one by one, in digits or as they are: beyond it, all of them at
// once cost less
constexpr double kFewPairs = 0.25, kFewSingle = 0.1;

#if defined(__AVX2__)
// One vector of queries against a block that has products with their leading digits.
template <class Stored>
class Sift : QuerySoftmax<float> {
  public:
    using V = FloatVector;
    static constexpr int W = Tile<float>::lanes;

    Sift(const ScanProblem& problem, const Shape<float>& shape, const Shared<float>& shared, Memory<float>& memory,
         int64_t vector)
        : QuerySoftmax<float>(problem, shape, memory),
          shared_(shared),
          first_(vector * W),
          lanes_(std::min<int64_t>(W, problem.batch - first_)),
          logits_(memory.logits + vector * W * shape.block),
          reaching_(memory.index + first_ / Tile<float>::queries * shape.block) {}

    // Gives the `rows` of the block that may matter their whole products, and takes the others out. Returns how many
    // pairs are taken out; -1 where too few are, and products are left as they are.
    __attribute__((noinline)) int64_t keep_few(const Stored* rows, const Block& block) {
        const int64_t count = block.count;
        prepare(block);
        uint32_t lanes = find_reaching(count);
        for (int64_t lane = 0; lane < W; ++lane) scored_[lane] = -1;
        for (; lanes != 0; lanes &= lanes - 1) raise_floor(rows, count, __builtin_ctz(lanes));
        find_reaching(count);
        int64_t pairs = 0;
        for (int64_t r = 0; r < count; ++r) pairs += __builtin_popcount(reaching_[r]);
        const double few = shared_.use.single ? kFewSingle : kFewPairs;
        if (static_cast<double>(pairs) > few * static_cast<double>(count * lanes_)) return -1;
        for (int64_t r = 0; r < count; ++r) finish(rows, r);
        return count * lanes_ - pairs;
    }

  private:
    const Shared<float>& shared_;
    const int64_t first_, lanes_;
    float* logits_;
    int32_t* reaching_;  // a bit for each query, of every row
    V bias_ = {}, lower_ = {}, leading_ = {};
    int64_t scored_[W];  // the row of each query that has its whole product already, or -1

    Column<float> column(int64_t lane) const { return {first_ + lane, logits_ + lane, nullptr, W}; }

    void prepare(const Block& block) {
        for (int64_t lane = 0; lane < lanes_; ++lane) {
            const int64_t b = first_ + lane;
            bias_[lane] = static_cast<float>(problem_.bias[b]);
            lower_[lane] = static_cast<float>(shared_.in_digits[b].lower_norm * kNormUpward);
            leading_[lane] = static_cast<float>(shared_.in_digits[b].leading_norm * kNormUpward);
            exclude(block, column(lane));
        }
    }

    V shift(int64_t r) const { return bias_ * memory_.half_norms[r] + memory_.log_weights[r]; }

    // Upper logits below these cannot matter.
    V floors() const {
        V floor = load(memory_.floor + first_);
        for (int64_t lane = 0; shape_.top && lane < lanes_; ++lane)
            floor[lane] = std::min(floor[lane], memory_.top_logits[(first_ + lane + 1) * shape_.top - 1]);
        return floor;
    }

    // Notes which queries each row may matter to, and returns those that some row may matter to.
    uint32_t find_reaching(int64_t count) {
        const uint32_t all = (1u << lanes_) - 1;
        const V floor = floors(), nothing = broadcast(-std::numeric_limits<float>::infinity());
        uint32_t some = 0;
        for (int64_t r = 0; r < count; ++r) {
            const V hidden = lower_ * memory_.norms[r] + leading_ * memory_.errors[r];
            const V upper = load(logits_ + r * W) + (shift(r) + hidden);
            // what is excluded does not count, even where no floor is known
            const uint32_t reached = all & ~lanes_of<float>(upper < floor) & ~lanes_of<float>(upper == nothing);
            reaching_[r] = static_cast<int32_t>(reached), some |= reached;
        }
        return some;
    }

    // Gives the most promising row of a query its whole product: what it weighs closes others.
    void raise_floor(const Stored* rows, int64_t count, int64_t lane) {
        int64_t best = -1;
        float largest = 0.0f;
        for (int64_t r = 0; r < count; ++r) {
            const float logit = logits_[r * W + lane] + shift(r)[lane];
            if ((reaching_[r] >> lane & 1) != 0 && (best < 0 || logit > largest)) best = r, largest = logit;
        }
        multiply(rows, best, lane);
        scored_[lane] = best;
        const int64_t b = first_ + lane;
        const double known = double(memory_.reference[b]) + std::log(memory_.met[b]);
        const double promised = double(logits_[best * W + lane] + shift(best)[lane]);
        const double floor = weight_floor(problem_, b, std::max(known, promised));
        memory_.floor[b] = std::max(memory_.floor[b], static_cast<float>(floor));
    }

    // Writes the whole product of a row with a query.
    void multiply(const Stored* rows, int64_t r, int64_t lane) const {
        const int64_t dim = shape_.dim, b = first_ + lane;
        const Stored* row = rows + r * dim;
        float* out = logits_ + r * W + lane;
#if defined(__AVX512VNNI__)
        if constexpr (sizeof(Stored) == 1) return score_digits(row, 1, dim, shared_.in_digits[b], out);
#endif
        score_few<float, Stored, 1>(row, 1, shape_, shared_.centre, shared_.single + b * code_stride(dim), out);
    }

    // Gives a row its whole products with the queries that it may matter to, and takes it out for the others.
    void finish(const Stored* rows, int64_t r) {
        const uint32_t reached = static_cast<uint32_t>(reaching_[r]);
        const float nothing = -std::numeric_limits<float>::infinity();
        if (reached == 0) return store(logits_ + r * W, broadcast(nothing));
        for (int64_t lane = 0; lane < W; ++lane)
            if ((reached >> lane & 1) == 0) logits_[r * W + lane] = nothing;
        for (uint32_t some = reached; some != 0; some &= some - 1)
            if (const int lane = __builtin_ctz(some); scored_[lane] != r) multiply(rows, r, lane);
    }
};
#endif

}  // namespace oracle

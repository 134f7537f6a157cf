// Late in time few rows matter: products with the leading digits of queries tell which, and these alone get all digits.
//
// What the lower digits add to <x - c, q> is at most |x - c| times the norm of their part of the query.
#pragma once
#include "digit_tiles.hpp"
#include "softmax.hpp"

namespace oracle {

// rows of a tile of leading digits, by how many vectors of queries it has
constexpr int leading_rows(int vectors) {
    return 24 / vectors;
}

// share of the pairs of a block that may need all digits: beyond it, these cost less for all of them at once
constexpr double kFewPairs = 0.25;

// float32 roundings of a norm and of what it is multiplied with
constexpr double kNormUpward = 1.0 + 0x1p-20;

#if defined(__AVX512VNNI__)
// What the sums of leading digits of 16 queries stand for.
class LeadingValues {
  public:
    explicit LeadingValues(const DigitQuery* queries) {
        for (int k = 0; k < 16; ++k) {
            offset_[k / 8][k % 8] = static_cast<double>(queries[k].leading_offset);
            unit_[k / 8][k % 8] = queries[k].unit * kLeading;
        }
    }

    ORACLE_MEMBER void write(__m512i sums, float* out) const {
        _mm256_storeu_ps(out, half(_mm512_castsi512_si256(sums), 0));
        _mm256_storeu_ps(out + 8, half(_mm512_extracti64x4_epi64(sums, 1), 1));
    }

  private:
    __m512d offset_[2], unit_[2];

    ORACLE_MEMBER __m256 half(__m256i sums, int which) const {
        return _mm512_cvtpd_ps(_mm512_mul_pd(_mm512_sub_pd(_mm512_cvtepi32_pd(sums), offset_[which]), unit_[which]));
    }
};

// Writes the products of a tile of rows with the leading digits of VECTORS vectors of queries. rows: [_][dim]. panel:
// of leading digits, [D / 4][16][4], panels `panel_step` apart. queries: [VECTORS * 16]. out: [_][16], vectors
// `out_step` apart.
template <int VECTORS>
ORACLE_APART void score_leading_tile(const uint8_t* rows, int64_t dim, const int8_t* panel, int64_t panel_step,
                                     const DigitQuery* queries, float* out, int64_t out_step, Ahead& ahead) {
    constexpr int ROWS = leading_rows(VECTORS);
    // few addresses reach all rows
    const uint8_t* x[ROWS / 3];
    for (int r = 0; r < ROWS / 3; ++r) x[r] = rows + 3 * r * dim;
    __m512i sums[ROWS][VECTORS] = {};
    Ahead soon = ahead;
    for (int64_t d = 0; d < dim; d += kTogether) {
        soon.next();
        __m512i digits[VECTORS];
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; ++v) digits[v] = _mm512_loadu_si512(panel + v * panel_step + d * 16);
#pragma GCC unroll 24
        for (int r = 0; r < ROWS; ++r) {
            int32_t four;
            std::memcpy(&four, x[r / 3] + (r % 3) * dim + d, sizeof four);
            const __m512i values = _mm512_set1_epi32(four);
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; ++v) add_products(sums[r][v], values, digits[v]);
        }
    }
    ahead = soon;
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; ++v) {
        const LeadingValues values(queries + v * 16);
#pragma GCC unroll 24
        for (int r = 0; r < ROWS; ++r) values.write(sums[r][v], out + v * out_step + r * 16);
    }
}

// One vector of queries against a block of which the leading digits are multiplied: gives the rows that may have weight
// all digits, and takes the others out.
class LeadingDigits : QuerySoftmax<float> {
  public:
    using V = FloatVector;
    static constexpr int W = Tile<float>::lanes;

    LeadingDigits(const ScanProblem& problem, const Shape<float>& shape, const Shared<float>& shared,
                  Memory<float>& memory, int64_t vector)
        : QuerySoftmax<float>(problem, shape, memory),
          shared_(shared),
          first_(vector * W),
          lanes_(std::min<int64_t>(W, problem.batch - first_)),
          logits_(memory.logits + vector * W * shape.block),
          reaching_(memory.index + first_ / Tile<float>::queries * shape.block) {}

    // rows: those of the block; the first `count` have products with leading digits. Returns whether few of them needed
    // all digits; otherwise products are left as they are.
    __attribute__((noinline)) bool sift(const uint8_t* rows, const Block& block, int64_t count) {
        prepare(block);
        uint32_t lanes = find_reaching(count);
        for (int64_t lane = 0; lane < W; ++lane) scored_[lane] = -1;
        for (; lanes != 0; lanes &= lanes - 1) raise_floor(rows, count, __builtin_ctz(lanes));
        find_reaching(count);
        int64_t pairs = 0;
        for (int64_t r = 0; r < count; ++r) pairs += __builtin_popcount(reaching_[r]);
        if (pairs > kFewPairs * static_cast<double>(count * lanes_)) return false;
        for (int64_t r = 0; r < count; ++r) finish(rows, r);
        return true;
    }

  private:
    const Shared<float>& shared_;
    const int64_t first_, lanes_;
    float* logits_;
    int32_t* reaching_;  // a bit for each query, of every row
    V bias_ = {}, rest_ = {};
    int64_t scored_[W];  // the row of each query that has all digits already, or -1

    Column<float> column(int64_t lane) const { return {first_ + lane, logits_ + lane, nullptr, W}; }

    void prepare(const Block& block) {
        for (int64_t lane = 0; lane < lanes_; ++lane) {
            const int64_t b = first_ + lane;
            bias_[lane] = static_cast<float>(problem_.bias[b]);
            rest_[lane] = static_cast<float>(shared_.in_digits[b].rest * kNormUpward);
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
        const V floor = floors();
        uint32_t some = 0;
        for (int64_t r = 0; r < count; ++r) {
            const V upper = load(logits_ + r * W) + (shift(r) + rest_ * memory_.norms[r]);
            const uint32_t reached = all & ~lanes_of<float>(upper < floor);
            reaching_[r] = static_cast<int32_t>(reached), some |= reached;
        }
        return some;
    }

    // Gives the most promising row of a query all digits: what it weighs closes others.
    void raise_floor(const uint8_t* rows, int64_t count, int64_t lane) {
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
        const double partition = std::max(known, double(logits_[best * W + lane] + shift(best)[lane]));
        const double floor = partition - windows_at(problem_.scan, problem_.law[b], partition).weight;
        memory_.floor[b] = std::max(memory_.floor[b], static_cast<float>(floor));
    }

    void multiply(const uint8_t* rows, int64_t r, int64_t lane) const {
        const int64_t dim = shape_.dim;
        score_digits(rows + r * dim, 1, dim, shared_.in_digits[first_ + lane], logits_ + r * W + lane);
    }

    // Gives a row all digits for the queries that it may matter to, and takes it out for the others.
    void finish(const uint8_t* rows, int64_t r) {
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

// Weighted sums of a block for the tiles of queries whose weights are digits.
#pragma once
#include "blocks/softmax.hpp"
#include "digits/matrix_weights.hpp"

namespace oracle {

template <class Real, class Stored>
class WeighedDigits {
  public:
    static constexpr int64_t W = Tile<Real>::lanes, P = Tile<Real>::panel, Q = Tile<Real>::queries;

    WeighedDigits(const ScanProblem& problem, const Shape<Real>& shape, const Shared<Real>& shared,
                  Memory<Real>& memory, const Block& block)
        : problem_(problem),
          shape_(shape),
          shared_(shared),
          memory_(memory),
          block_(block),
          place_(weighed_rows(block.count)) {}

    // Brings the weights of a tile of queries into digits where these serve; returns whether they do.
    bool take(int64_t t) {
        if (memory_.digit_weights == nullptr) return false;
        DigitWeights& weights = memory_.digit_weights[t];
        weights.used = false;
#if defined(__AVX512VNNI__)
        if constexpr (std::is_same<Real, float>::value) {
            const int64_t count = memory_.count[t];
            const bool dense = count >= kDense * static_cast<double>(block_.count) && block_.count <= kMostWeighed;
            if (!dense || count == 0 || !by_digit_tiles<Real, Stored>(shape_.dim)) return false;
            const float* packed = memory_.packed + t * shape_.block * Q;
            set_units(packed, count, weights);
            weights.used = fine(t, weights);
            weights.digits = memory_.weight_digits + place_.of_tile(t);
            if (weights.used)
                write_weights(block_.first, memory_.index + t * shape_.block, packed, count, place_, weights);
        }
#endif
        return weights.used;
    }

    // Brings the rows of the block into groups.
    void group(const Stored* rows) {
        (void)rows;
#if defined(__AVX512VNNI__)
        if constexpr (sizeof(Stored) == 1) group_rows(rows, block_.count, shape_.dim, memory_.groups);
#endif
    }

    // Adds the sums of a panel for the tiles of vector v whose weights are digits.
    void weigh(int64_t p, int64_t v) {
        (void)p, (void)v;
#if defined(__AVX512VNNI__)
        if constexpr (std::is_same<Real, float>::value) {
            const int64_t first = v * W / Q, last = first + W / Q;
            const DigitWeights* weights = memory_.digit_weights;
            if (std::none_of(weights + first, weights + last, [](const DigitWeights& of) { return of.used; })) return;
            const uint8_t* panel = memory_.groups + p * place_.rows * P;
#if defined(__AMX_INT8__)
            alignas(64) int32_t sums[kWeightDigits * Tile<Real>::panel_vectors * kUnitSums];
            // the sums that come after the next, which come from the third cache where queries are many
            fetch_sums(memory_.sums + shape_.offset(p, v * W) + 2 * W * P, W * P);
            multiply_all_weights(memory_.weight_digits + place_.of_tile(first), place_.rows, panel, sums);
#endif
            for (int64_t t = first; t < last; ++t) {
                if (!weights[t].used) continue;
                const int32_t* centre = shared_.whole_centre + p * P;
                float* out = memory_.sums + shape_.offset(p, t * Q);
#if defined(__AMX_INT8__)
                add_weighed(sums + (t - first) * Q * 16, weights[t], centre, out);
#else
                for (int q = 0; q < Q; q += 4)
                    weigh_digit_tile(panel, place_.rows / kRowsAtOnce, weights[t], q, centre, out + q * P);
#endif
                if (p == 0) *memory_.weighed += block_.count * std::min<int64_t>(Q, shape_.batch - t * Q);
            }
        }
#endif
    }

  private:
    const ScanProblem& problem_;
    const Shape<Real>& shape_;
    const Shared<Real>& shared_;
    Memory<Real>& memory_;
    const Block& block_;
    const DigitPlace place_;

    // Whether what digits leave of the weights of a block is too little to show in a mean; if so, it is kept in mind.
    bool fine(int64_t t, const DigitWeights& weights) {
        double left[Q];
        const int64_t queries = std::min<int64_t>(Q, shape_.batch - t * Q);
        for (int64_t q = 0; q < queries; ++q) {
            const double each = kHalfDigit * weights.unit[q];
            left[q] = memory_.rounded[t * Q + q] + block_.count * each * each;
            const double most = kFineMean * memory_.mass[t * Q + q];
            if (!(left[q] <= most * most)) return false;
        }
        std::copy_n(left, queries, memory_.rounded + t * Q);
        return true;
    }
};

}  // namespace oracle

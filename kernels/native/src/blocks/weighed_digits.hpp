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
          place_{weighed_rows(block.count)},
          lost_(shared.use.planes ? of_planes() : kHalfDigit) {}

    // Brings the weights of a tile of queries into digits where these serve; returns whether they do.
    bool take(int64_t t) {
        if (memory_.digit_weights == nullptr) return false;
        DigitWeights& weights = memory_.digit_weights[t];
        weights.used = false;
#if defined(__AVX512VNNI__)
        if constexpr (std::is_same<Real, float>::value) {
            const int64_t count = memory_.count[t];
            const double least = shared_.use.planes ? kDensePlanes : kDense;
            const bool dense = count >= least * static_cast<double>(block_.count) && block_.count <= kMostWeighed;
            const bool read = shared_.use.planes || by_digit_tiles<Real, Stored>(shape_.dim);
            if (!dense || count == 0 || !read) return false;
            const float* packed = memory_.packed + t * shape_.block * Q;
            const int32_t* index = memory_.index + t * shape_.block;
            weights.digits = memory_.weight_digits + place_.of_tile(t);
#if defined(__AMX_INT8__)
            lay_out_weights(packed, index, memory_.scales, count, place_.rows, memory_.weights, weights);
            weights.used = fine(t, weights);
            if (weights.used) write_weights(block_.first, memory_.weights, place_.rows, weights);
#else
            set_units(packed, count, weights);
            weights.used = fine(t, weights);
            if (weights.used) write_weights(block_.first, index, packed, count, place_.rows, weights);
#endif
        }
#endif
        return weights.used;
    }

    // Brings a panel of the rows of the block into groups.
    void group(const Stored* rows, int64_t p) {
        (void)rows, (void)p;
#if defined(__AVX512VNNI__)
        if constexpr (sizeof(Stored) == 1)
            return group_rows(rows, shape_.dim, block_.count, p * P, shape_.dim, memory_.groups);
        const int64_t stride = code_stride(shape_.dim), plane = plane_stride(shape_.block, shape_.dim);
        for (int64_t k = 0; shared_.use.planes && k < kPlanes; ++k)
            group_rows(memory_.codes + k * plane, stride, block_.count, p * P, shape_.dim,
                       memory_.groups + k * place_.rows * P);
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
#if defined(__AMX_INT8__)
            alignas(64) int32_t sums[kWeightDigits * Tile<Real>::panel_vectors * kUnitSums];
            // the sums that come after the next, which come from the third cache where queries are many
            fetch_sums(memory_.sums + shape_.offset(p, v * W) + 2 * W * P, W * P);
            const int8_t* digits = memory_.weight_digits + place_.of_tile(first);
            shared_.use.planes ? multiply_plane_weights(digits, place_.rows, memory_.groups, sums)
                               : multiply_all_weights(digits, place_.rows, memory_.groups, sums);
#endif
            for (int64_t t = first; t < last; ++t) {
                if (!weights[t].used) continue;
                const int32_t* centre = shared_.whole_centre + p * P;
                float* out = memory_.sums + shape_.offset(p, t * Q);
#if defined(__AMX_INT8__)
                add_weighed(sums + (t - first) * Q * 16, weights[t], centre, out);
#else
                for (int q = 0; q < Q; q += 4)
                    weigh_digit_tile(memory_.groups, place_.rows / kRowsAtOnce, weights[t], q, centre, out + q * P);
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
    const double lost_;  // of a weighted row, in units of the last digit of its weight

    // Whether what digits leave of the weights of a block is too little to show in a mean; if so, it is kept in mind.
    bool fine(int64_t t, const DigitWeights& weights) {
        double left[Q];
        const double limit = shared_.use.planes ? kFinePlanes : kFineMean;
        const int64_t queries = std::min<int64_t>(Q, shape_.batch - t * Q);
        for (int64_t q = 0; q < queries; ++q) {
            const double each = lost_ * weights.unit[q];
            left[q] = memory_.rounded[t * Q + q] + block_.count * each * each;
            const double most = limit * memory_.mass[t * Q + q];
            if (!(left[q] <= most * most)) return false;
        }
        std::copy_n(left, queries, memory_.rounded + t * Q);
        return true;
    }

    // What digits leave of a weighted row in planes, root mean square, in units of the last digit of its weight and
    // relative to the distance of the rows: half of one of the weight, or the products of low digits.
    double of_planes() const {
        double square = 0.0, longest = 0.0;
        for (int64_t r = 0; r < block_.count; ++r) {
            const double norm = memory_.norms[r];
            square += norm * norm;
            if (memory_.scales[r] > 0) longest = std::max(longest, norm / memory_.scales[r]);
        }
        const double lost = std::max(kHalfDigit * longest, kLowProduct * std::sqrt(static_cast<double>(shape_.dim)));
        return lost / std::sqrt(square / static_cast<double>(block_.count));
    }
};

}  // namespace oracle

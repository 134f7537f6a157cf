// Weights of a block that are multiplied with what logits change by along directions.
#pragma once
#include "blocks/softmax.hpp"

namespace oracle {

// One tile of queries, whose products of the block with their directions lie where logits were.
template <class Real>
class WeightChanges {
  public:
    static constexpr int W = Tile<Real>::lanes, Q = Tile<Real>::queries;

    WeightChanges(const ScanProblem& problem, const Shape<Real>& shape, Memory<Real>& memory, int64_t tile)
        : shape_(shape),
          memory_(memory),
          tile_(tile),
          products_(memory.logits + tile * Q / W * W * shape.block + tile * Q % W),
          queries_(std::min<int64_t>(Q, shape.batch - tile * Q)) {
        for (int64_t q = 0; q < queries_; ++q) {
            slope_[q] = static_cast<Real>(problem.changes.slope[tile * Q + q]);
            offset_[q] = static_cast<Real>(problem.changes.offset[tile * Q + q]);
        }
    }

    // Multiplies the weights of the rows that have any, and sums them up.
    __attribute__((noinline)) void multiply() {
        const int32_t* index = memory_.index + tile_ * shape_.block;
        Real* weights = memory_.packed + tile_ * shape_.block * Q;
        Real sums[Q] = {};
        for (int64_t i = 0; i < memory_.count[tile_]; ++i) {
            const Real half_norm = memory_.half_norms[index[i]];
            for (int q = 0; q < Q; ++q) {
                const Real change = products_[index[i] * W + q] + (slope_[q] * half_norm - offset_[q]);
                sums[q] += weights[i * Q + q] *= change;
            }
        }
        for (int64_t q = 0; q < queries_; ++q) memory_.shares[tile_ * Q + q] += sums[q];
    }

  private:
    const Shape<Real>& shape_;
    Memory<Real>& memory_;
    const int64_t tile_;
    const Real* products_;
    const int64_t queries_;
    Real slope_[Q] = {}, offset_[Q] = {};
};

}  // namespace oracle

// Weighted sums of rows as they are stored.
#pragma once
#include "rescore/distances.hpp"

namespace oracle {

// a weight below this share changes no digit of a mean, however many there are
constexpr double kNoShare = 1e-30;

// sum += sum_r weight_r (row_r - centre) over `count` values: what is far from zero loses no digits to its centre.
template <class T, int R>
ORACLE_INLINE void add_rows(const T* const* row, const double* weight, const double* centre, int64_t count,
                            double* sum) {
    int64_t d = 0;
    for (; d + kLanes <= count; d += kLanes) {
        const Wide middle = wide(centre + d);
        Wide total = wide(sum + d);
        for (int r = 0; r < R; ++r) total = fused(broadcast(weight[r]), wide(row[r] + d) - middle, total);
        store(sum + d, total);
    }
    if (d == count) return;
    const Wide middle = wide_some(centre + d, count - d);
    Wide total = wide_some(sum + d, count - d);
    for (int r = 0; r < R; ++r) total = fused(broadcast(weight[r]), wide_some(row[r] + d, count - d) - middle, total);
    store_some(sum + d, total, count - d);
}

// Adds rows less their centre, with their weights, to the `count` values of `sum`, several at a time; the last ones by
// finish().
template <class T>
class WeightedSum {
  public:
    WeightedSum(const double* centre, double* sum, int64_t count) : centre_(centre), sum_(sum), count_(count) {}

    void add(const T* row, double weight) {
        row_[held_] = row;
        weight_[held_++] = weight;
        if (held_ < kAbreast) return;
        add_rows<T, kAbreast>(row_, weight_, centre_, count_, sum_);
        held_ = 0;
    }
    void finish() {
        for (int r = 0; r < held_; ++r) add_rows<T, 1>(row_ + r, weight_ + r, centre_, count_, sum_);
        held_ = 0;
    }

  private:
    const double* centre_;
    double* sum_;
    int64_t count_;
    int held_ = 0;
    const T* row_[kAbreast];
    double weight_[kAbreast];
};

}  // namespace oracle

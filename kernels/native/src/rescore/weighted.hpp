// Weighted sums of rows as they are stored.
#pragma once
#include "rescore/distances.hpp"

namespace oracle {

// a weight below this share changes no digit of a mean, however many there are
constexpr double kNoShare = 1e-30;

// sum += sum_r weight_r row_r over `count` values.
template <class T, int R>
ORACLE_INLINE void add_rows(const T* const* row, const double* weight, int64_t count, double* sum) {
    int64_t d = 0;
    for (; d + kLanes <= count; d += kLanes) {
        Wide total = wide(sum + d);
        for (int r = 0; r < R; ++r) total = fused(broadcast(weight[r]), wide(row[r] + d), total);
        store(sum + d, total);
    }
    if (d == count) return;
    Wide total = wide_some(sum + d, count - d);
    for (int r = 0; r < R; ++r) total = fused(broadcast(weight[r]), wide_some(row[r] + d, count - d), total);
    store_some(sum + d, total, count - d);
}

// Adds rows with their weights to the `count` values of `sum`, several at a time; the last ones by finish().
template <class T>
class WeightedSum {
  public:
    WeightedSum(double* sum, int64_t count) : sum_(sum), count_(count) {}

    void add(const T* row, double weight) {
        row_[held_] = row;
        weight_[held_++] = weight;
        if (held_ < kAbreast) return;
        add_rows<T, kAbreast>(row_, weight_, count_, sum_);
        held_ = 0;
    }
    void finish() {
        for (int r = 0; r < held_; ++r) add_rows<T, 1>(row_ + r, weight_ + r, count_, sum_);
        held_ = 0;
    }

  private:
    double* sum_;
    int64_t count_;
    int held_ = 0;
    const T* row_[kAbreast];
    double weight_[kAbreast];
};

}  // namespace oracle

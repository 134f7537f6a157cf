// Queries as the host passes them, and what float64 kernels read of them.
#pragma once
#include <cmath>
#include <vector>

#include "problem.hpp"

namespace oracle {

struct AskedQueries {
    int64_t count;
    const double* point;  // [B, dim], against rows without their centre
    const double* given;  // [B, dim], against scale * stored + offset; null where `point` is what was given
    double scale, offset;
    const double* alpha;             // [B]
    const double* inverse_variance;  // [B]
};

// |q|^2 of a query.
inline double squared_norm(const double* point, int64_t dim) {
    double found = 0.0;
    for (int64_t d = 0; d < dim; ++d) found += point[d] * point[d];
    return found;
}

// The queries against rows that still carry their centre, and how large the terms of their differences are at most: see
// difference_size in kernels/common/rescore.py.
class Queries {
  public:
    Queries(const RowsView& rows, const AskedQueries& asked) : stored_(asked.count * rows.dim), size_(asked.count) {
        for (int64_t b = 0; b < asked.count; ++b) {
            const double* point = asked.point + b * rows.dim;
            for (int64_t d = 0; d < rows.dim; ++d)
                stored_[b * rows.dim + d] = std::fma(asked.alpha[b], rows.centre[d], point[d]);
            size_[b] = 2.0 * std::sqrt(squared_norm(point, rows.dim)) +
                       std::fabs(asked.alpha[b]) * (rows.radius + rows.centre_norm);
        }
        const bool centred = asked.given == nullptr;
        view_ = {asked.count, stored_.data(),         centred ? asked.point : asked.given,
                 asked.scale, asked.offset,           centred,
                 asked.alpha, asked.inverse_variance, size_.data()};
    }
    Queries(const Queries&) = delete;

    const QueriesView& view() const { return view_; }

  private:
    std::vector<double> stored_, size_;
    QueriesView view_;
};

}  // namespace oracle

// Queries as the host passes them, and what kernels read of them.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "core/doubles.hpp"
#include "core/problem.hpp"

namespace oracle {

// Queries against rows, or in the space of values, where a sample is scale * stored + offset and the centre of the rows
// is `base`.
struct AskedQueries {
    int64_t count;
    const double* point;             // [B, dim], against rows without their centre; null for queries in value space
    const double* inverse_variance;  // [B], null likewise
    const double* alpha;             // [B]
    const double* given;             // [B, dim], in value space; null where `point` is what was given
    const double* variance;          // [B], in value space
    const double* base;              // [dim]
    double scale, offset;
};

// |q|^2 of a query.
inline double squared_norm(const double* point, int64_t dim) {
    Wide total = {};
    int64_t d = 0;
    for (; d + kLanes <= dim; d += kLanes) total = fused(wide(point + d), wide(point + d), total);
    double found = lane_sum(total);
    for (; d < dim; ++d) found += point[d] * point[d];
    return found;
}

class Queries {
  public:
    std::vector<double> squares;  // [B], |q|^2

    Queries(const RowsView& rows, const AskedQueries& asked)
        : squares(asked.count), rows_(rows), asked_(asked), moved_(rows.centre_norm) {
        if (asked.point == nullptr) bring_to_rows();
        for (int64_t b = 0; b < asked.count; ++b) squares[b] = squared_norm(asked_.point + b * rows.dim, rows.dim);
    }
    Queries(const Queries&) = delete;

    // with the point and the inverse variance of each query
    const AskedQueries& asked() const { return asked_; }

    // How large the terms of a difference between a query and a row are at most: see difference_size in
    // kernels/common/rounding.py.
    double size(int64_t b) const {
        return 2.0 * std::sqrt(squares[b]) + std::fabs(asked_.alpha[b]) * (rows_.radius + moved_);
    }

    // How far |q|^2 / 2 sigma^2 may be off, in nats: see point_error there; roundoff: as Digits has it.
    double point_error(int64_t b, double roundoff) const {
        const double reach = std::sqrt(squares[b]) + std::fabs(asked_.alpha[b]) * rows_.radius;
        return roundoff * asked_.inverse_variance[b] * reach * size(b);
    }

    // The queries against rows that still carry their centre.
    QueriesView in_stored_coordinates() {
        const int64_t dim = rows_.dim;
        stored_.resize(asked_.count * dim), size_.resize(asked_.count);
        for (int64_t b = 0; b < asked_.count; ++b) {
            const double* point = asked_.point + b * dim;
            for (int64_t d = 0; d < dim; ++d)
                stored_[b * dim + d] = std::fma(asked_.alpha[b], rows_.centre[d], point[d]);
            size_[b] = size(b);
        }
        const bool centred = asked_.given == nullptr;
        const double* given = centred ? asked_.point : asked_.given;
        return {asked_.count, stored_.data(),          given,       asked_.scale, asked_.offset, centred,
                asked_.alpha, asked_.inverse_variance, size_.data()};
    }

  private:
    const RowsView& rows_;
    AskedQueries asked_;
    double moved_;  // norm of the larger part of what is taken off a point for each unit of alpha: centre or offset
    std::vector<double> point_, precision_, stored_, size_;

    void bring_to_rows() {
        const int64_t dim = rows_.dim;
        point_.resize(asked_.count * dim), precision_.resize(asked_.count);
        moved_ = std::max(moved_, std::fabs(asked_.offset / asked_.scale) * std::sqrt(static_cast<double>(dim)));
        for (int64_t b = 0; b < asked_.count; ++b) {
            const double* x = asked_.given + b * dim;
            const double alpha = asked_.alpha[b], scale = asked_.scale;
            for (int64_t d = 0; d < dim; ++d) point_[b * dim + d] = std::fma(-alpha, asked_.base[d], x[d]) / scale;
            precision_[b] = scale * scale / asked_.variance[b];
        }
        asked_.point = point_.data(), asked_.inverse_variance = precision_.data();
    }
};

}  // namespace oracle

// Changes of logits along directions, as the host asks for them and as a scan multiplies weights with them.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/problem.hpp"

namespace oracle {

// What logits change by along a direction: s_j = <g, r_j - m> - c |r_j - m|^2 / 2.
struct DirectionsView {
    const double *lse, *lse_rest;  // [B], of the whole posterior
    const double* mean;            // [B, dim], m with the centre of the rows
    const double* vector;          // [B, dim], g
    const double* curvature;       // [B], c, null for zeros
    double* total;                 // [shares, B, dim], zero before
};

// The same against rows x without their centre, as products and half norms: s_j = unit (<vector, x_j> + slope |x_j|^2 /
// 2 - offset), whose terms stay in the range of float32 however large g is. All [B], vector [B, dim]; vector is null
// where no directions are asked for.
struct ChangesView {
    const double *vector, *unit, *slope, *offset;
    const DirectionsView* asked;
};

class Changes {
  public:
    // Looks at no directions where they are null.
    Changes(const DirectionsView* asked, const RowsView& rows, int64_t batch)
        : asked_(asked), batch_(asked ? batch : 0), vector_(batch_ * rows.dim), numbers_(3 * batch_) {
        for (int64_t b = 0; b < batch_; ++b) look(rows, b);
    }

    ChangesView view() const {
        const double* numbers = numbers_.data();
        if (asked_ == nullptr) return {};
        return {vector_.data(), numbers, numbers + batch_, numbers + 2 * batch_, asked_};
    }

  private:
    const DirectionsView* asked_;
    int64_t batch_;
    std::vector<double> vector_, numbers_;  // numbers_: units, slopes and offsets

    void look(const RowsView& rows, int64_t b) {
        const int64_t dim = rows.dim;
        const double *given = asked_->vector + b * dim, *mean = asked_->mean + b * dim;
        const double curvature = asked_->curvature ? asked_->curvature[b] : 0.0;
        double* vector = vector_.data() + b * dim;
        double unit = std::max(std::fabs(curvature) * rows.radius, std::numeric_limits<double>::min());
        for (int64_t d = 0; d < dim; ++d) {
            vector[d] = given[d] + curvature * (mean[d] - rows.centre[d]);
            unit = std::max(unit, std::fabs(vector[d]));
        }
        double offset = 0.0, square = 0.0;
        for (int64_t d = 0; d < dim; ++d) {
            const double middle = mean[d] - rows.centre[d];
            // what products read, and no more: rows near the mean change by next to nothing
            vector[d] = static_cast<float>(vector[d] / unit);
            offset += vector[d] * middle, square += middle * middle;
        }
        numbers_[b] = unit, numbers_[batch_ + b] = -curvature / unit;
        numbers_[2 * batch_ + b] = offset - 0.5 * curvature / unit * square;
    }
};

}  // namespace oracle

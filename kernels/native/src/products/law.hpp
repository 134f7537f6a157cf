// The rounding law of kernels/common/rounding.py for one query: how far below the log-partition rows matter.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/problem.hpp"

namespace oracle {

// What the law needs to know of a query: bounds on products, what rounds of those with terms of either sign where it is
// longer than on the path, and how far apart competitors are.
struct QueryLaw {
    double bound, terms, norms, own, spread, limit;
};

// What it needs to know of the scan.
struct ScanLaw {
    double factor, rounding, log_count, budget, far_apart, log_copies, worst_case, few_shares;
};

// The constants of the law for products in float32, or else in float64.
struct Rounding {
    double roundoff, calm_dim, dropped_mass, budget, far_apart, worst_case, few_shares, limit, double_limit;
    double sum_roundings, moved, little_noise, point_limit, product_error, longest_noise;
    int64_t wide;
};

// Returns the law of a scan in which a query may use `count` rows.
inline ScanLaw scan_law(const Rounding& of, const RowsView& rows, int64_t count) {
    const double longest = std::max(1.0, std::sqrt(static_cast<double>(rows.dim) / of.calm_dim));
    // float64 scans list everything with weight or, where the rounding of their logits cannot show, nothing
    const double budget = of.wide ? std::numeric_limits<double>::infinity() : of.budget;
    return {0.5 * of.roundoff * longest,
            0.0,
            std::log(static_cast<double>(count) / of.dropped_mass),
            budget,
            of.far_apart,
            std::log(static_cast<double>(rows.copies)),
            of.worst_case,
            of.few_shares};
}

// Returns the law of a query with the norm |q|: products take the centre off.
inline QueryLaw query_law(const Rounding& of, const ScanLaw& scan, const RowsView& rows, int64_t count, double norm,
                          double alpha, double inverse_variance) {
    const double gain = std::fabs(alpha * inverse_variance), squared = gain * std::fabs(alpha);
    const double apart = 2.0 * std::sqrt(2.0 * std::log(static_cast<double>(std::max<int64_t>(count, 2))) / rows.dim);
    const double bound = gain * norm * rows.radius, own = 4.0 * squared * rows.radius * rows.radius;
    const double spread = std::min(apart / std::max(std::fabs(alpha), 1e-300), 1.0);
    double limit = of.limit;
    // beside equal rows products are exact, but not the norm of a query that is far from them
    const bool listed = rows.radius == 0.0 || scan.factor * (bound + own) > of.double_limit;
    if (of.wide) limit = listed ? -1.0 : std::numeric_limits<double>::infinity();
    const double noise = of.longest_noise * std::sqrt(squared * rows.dim) * rows.radius;
    return {
        bound, of.product_error * (bound - 0.25 * own - noise), 0.5 * squared * rows.radius * rows.radius, own, spread,
        limit};
}

// how much further changes with curvature reach, which are several times the logits that matter: as the limits of
// kernels/portable/covariance.py have it
constexpr double kCurvedSpread = 25.0;

// Returns how far rounding of a logit, by one nat, moves a product with a covariance at most, relative to |g| + |J g|.
//
// An error delta of the weight gamma of a sample at the distance d from the mean moves J g = (alpha / sigma^2) sum
// gamma s (r - m) by (alpha / sigma^2) gamma delta s d, where s = <g, r - m> = |g| d cos. Samples that share the mass
// have (alpha / sigma)^2 d^2 <= 4 c^2, c^2 = 2 ln N, see `competitor_spread` over there: that is up to gamma delta |g|
// 4 c^2 cos / alpha. But J g itself has at least (alpha / sigma^2) gamma s^2 / |g| in the direction of g, beside which
// it is delta / cos. The smaller of the two is largest for cos = sqrt(alpha) / 2 c.
inline double direction_spread(int64_t count, double alpha, bool curved) {
    const double apart = 2.0 * std::sqrt(2.0 * std::log(static_cast<double>(std::max<int64_t>(count, 2))));
    return (curved ? kCurvedSpread : 1.0) * apart / std::sqrt(std::max(std::fabs(alpha), 1e-300));
}

struct Windows {
    double weight, rescore;
};

// Returns the root mean square error of a logit, in nats.
inline double logit_error(const ScanLaw& scan, const QueryLaw& query, double partition) {
    const double size = std::min(query.bound, std::fabs(partition) + query.norms);
    return scan.factor * std::max(size + query.own, query.terms) + scan.rounding;
}

// Returns the windows in nats; see `windows`, `logit_error` and `rescore_window` over there.
inline Windows windows_at(const ScanLaw& scan, const QueryLaw& query, double partition) {
    const double error = logit_error(scan, query, partition);
    const double weight = scan.log_count + 2.0 * scan.worst_case * error;
    const double excess = std::max(error * query.spread / scan.budget, 1e-300);
    double window = 2.0 * std::log(excess);
    if (scan.far_apart * excess > 1.0) window = std::max(window, std::log(scan.few_shares));
    if (window > 0.0) window += scan.log_copies;
    window = error > query.limit ? weight : std::min(window, weight);
    const double nowhere = -std::numeric_limits<double>::infinity();
    return {weight, window > 0.0 ? window + 2.0 * scan.worst_case * error : nowhere};
}

}  // namespace oracle
